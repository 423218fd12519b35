"""An embedding model in llama.cpp, in a process of its own, because llama.cpp aborts the process on some bad
files.

    python -m epmq_export.verification.runtimes.llama_cpp.embedding_worker REQUEST

REQUEST is a JSON file: `path` of the model, `texts`, `want` (`outputs` or `tokens`), `exact`, `cached`
(whether the model keeps keys and values, as a decoder does), `memory` (bytes) and `result`, the file to
write: float32 [texts, width] as .npy, or the ids of each text as JSON. Errors go to stderr.
"""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.runtimes.process import serve, write_array

if TYPE_CHECKING:
    import xllamacpp

# The tokens of one batch, and so of the longest text: attention in both directions needs a whole text in one
# batch.
LONGEST = 2048


def started(path: str, exact: bool, cached: bool) -> "xllamacpp.Server":
    """Return a server that runs one text at a time on one thread, so that the numbers are the same in every
    run, whatever else is asked for. The pooling is the file's.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.embedding = True
    params.n_parallel = 1
    # 0 takes the length from the file, for which a decoder would keep gigabytes of keys and values. One that
    # keeps them refuses a text that leaves no room for another token.
    params.n_ctx = LONGEST + 1 if cached else 0
    params.n_batch = params.n_ubatch = LONGEST
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.ui = False
    if exact:  # Flash attention would round keys and values to half precision.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def outputs(server: "xllamacpp.Server", texts: list[str]) -> NDArray[np.float32]:
    """Return the embeddings of texts, float32 [texts, width], not normalised."""
    answer = server.handle_embeddings({"input": texts, "embd_normalize": -1})
    if "error" in answer:
        raise RuntimeError(f"error: {answer['error'].get('message', answer['error'])}")
    rows = sorted(answer["data"], key=lambda row: row["index"])
    return np.array([row["embedding"] for row in rows], np.float32)


def tokens(server: "xllamacpp.Server", texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, special tokens included."""
    connection = http.client.HTTPConnection(urlsplit(server.listening_address).netloc)
    found = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        found.append(json.loads(connection.getresponse().read())["tokens"])
    connection.close()
    return found


def answer(request: Mapping[str, Any], result: Path) -> None:
    """Write the answer to a request."""
    server = started(request["path"], request["exact"], request["cached"])
    if request["want"] == "tokens":
        result.write_text(json.dumps(tokens(server, request["texts"])), encoding="utf-8")
    else:
        write_array(result, outputs(server, request["texts"]))


if __name__ == "__main__":
    serve(answer)

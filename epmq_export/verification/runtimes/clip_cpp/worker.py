"""clip.cpp in a process of its own, because it ends the process on many bad files.

    python -m epmq_export.verification.runtimes.clip_cpp.worker REQUEST

REQUEST is a JSON file: `path` of the model, `want`, `samples`, `memory` (bytes) and `result`, the file to
write. `want` is one of these:

`keys`      The description of inputs in the model's file, as JSON: the fields of `runtime.Images` or
            `runtime.Texts`. `samples` says which.
`images`    float32 [n, projection_dim] as .npy. `samples` is an .npy file of float32 [n, height, width, 3].
`texts`     The same. `samples` are the ids of each text, special tokens included.

Errors go to stderr.
"""

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.runtimes.clip_cpp import library
from epmq_export.verification.runtimes.clip_cpp.library import ARRAY, FLOAT32, STRING, UINT32
from epmq_export.verification.runtimes.process import serve, write_array

ARCHITECTURE = "clip"


class Keys:
    """The keys and tensors of a GGUF file, as clip.cpp's own reader has them. Types are checked here, because
    clip.cpp takes a value as it finds it, whatever its type.
    """

    def __init__(self, path: str) -> None:
        self.ggml = library.ggml(ctypes.RTLD_GLOBAL)
        self.tensors = ctypes.c_void_p()
        self.file = self.ggml.gguf_init_from_file(
            path.encode(), library.GgufInit(True, ctypes.pointer(self.tensors))
        )
        if not self.file:
            raise ValueError("it reads no GGUF")
        found = self.text("general.architecture")
        if found != ARCHITECTURE:
            raise ValueError(f"general.architecture is {found!r}, expected {ARCHITECTURE!r}")
        self._require_whole(path)

    def number(self, key: str) -> int:
        return int(self.ggml.gguf_get_val_u32(self.file, self._find(key, UINT32)))

    def text(self, key: str) -> str:
        return str(self.ggml.gguf_get_val_str(self.file, self._find(key, STRING)).decode("utf-8", "replace"))

    def texts(self, key: str) -> list[str]:
        index = self._find(key, ARRAY, STRING)
        return [
            self.ggml.gguf_get_arr_str(self.file, index, i).decode("utf-8", "replace")
            for i in range(self.ggml.gguf_get_arr_n(self.file, index))
        ]

    def floats(self, key: str, count: int) -> list[float]:
        index = self._find(key, ARRAY, FLOAT32)
        found = self.ggml.gguf_get_arr_n(self.file, index)
        if found != count:
            raise ValueError(f"key {key} has {found} values, expected {count}")
        return list((ctypes.c_float * count).from_address(self.ggml.gguf_get_arr_data(self.file, index)))

    def rows(self, name: str, expected: int, why: str) -> None:
        """Require a tensor to have as many rows as a key says, because clip.cpp would read past its end."""
        tensor = self.ggml.ggml_get_tensor(self.tensors, name.encode())
        if not tensor:
            raise ValueError(f"tensor {name} is missing")
        found = self.ggml.ggml_nrows(tensor)
        if found != expected:
            raise ValueError(f"tensor {name} has {found} rows, expected {expected}, {why}")

    def _find(self, key: str, kind: int, items: int | None = None) -> int:
        index: int = self.ggml.gguf_find_key(self.file, key.encode())
        if index < 0:
            raise ValueError(f"key {key} is missing")
        found = [self.ggml.gguf_get_kv_type(self.file, index)]
        found += [self.ggml.gguf_get_arr_type(self.file, index)] if found == [ARRAY] else []
        expected = [kind] if items is None else [kind, items]
        if found != expected:
            raise ValueError(
                f"key {key} has the type {found}, expected {expected} (GGUF's numbers: 4 uint32, 6 "
                "float32, 8 string, 9 array)"
            )
        return index

    def _require_whole(self, path: str) -> None:
        """Require the file to hold all of its tensors, because clip.cpp fills what is missing at the end with
        whatever was in memory.
        """
        start, ggml = self.ggml.gguf_get_data_offset(self.file), self.ggml
        size = Path(path).stat().st_size
        for index in range(ggml.gguf_get_n_tensors(self.file)):
            name = ggml.gguf_get_tensor_name(self.file, index)
            end = (
                start
                + ggml.gguf_get_tensor_offset(self.file, index)
                + ggml.ggml_nbytes(ggml.ggml_get_tensor(self.tensors, name))
            )
            if end > size:
                raise ValueError(
                    f"tensor {name.decode('utf-8', 'replace')} ends at byte {end}, and the file at "
                    f"byte {size}"
                )


def of_images(keys: Keys) -> dict[str, Any]:
    """Return the keys that the making of pixels needs. First check those whose faults clip.cpp would not
    notice.
    """
    side, patch = keys.number("clip.vision.image_size"), keys.number("clip.vision.patch_size")
    if not patch:
        raise ValueError("key clip.vision.patch_size is 0")
    keys.rows("v.position_embd.weight", (side // patch) ** 2 + 1, "one a patch and one for the class")
    keys.rows(
        "visual_projection.weight",
        keys.number("clip.vision.projection_dim"),
        "as clip.vision.projection_dim says",
    )
    return {
        "side": side,
        "mean": keys.floats("clip.vision.image_mean", 3),
        "std": keys.floats("clip.vision.image_std", 3),
    }


def of_texts(keys: Keys) -> dict[str, Any]:
    """Return the keys that the making of ids needs. First check those whose faults clip.cpp would not
    notice.
    """
    tokens, context = keys.texts("tokenizer.ggml.tokens"), keys.number("clip.text.context_length")
    keys.rows("t.token_embd.weight", len(tokens), "as many as tokenizer.ggml.tokens")
    keys.rows("t.position_embd.weight", context, "as clip.text.context_length says")
    keys.rows(
        "text_projection.weight", keys.number("clip.text.projection_dim"), "as clip.text.projection_dim says"
    )
    ends = {
        name: keys.number(f"tokenizer.ggml.{short}_token_id")
        for name, short in (("start", "bos"), ("end", "eos"))
    }
    if beyond := [index for index in ends.values() if index >= len(tokens)]:
        raise ValueError(
            f"token {beyond[0]} begins or ends a text, expected one of the {len(tokens)} of "
            "tokenizer.ggml.tokens"
        )
    return {"tokens": tokens, "merges": keys.texts("tokenizer.ggml.merges"), **ends, "context": context}


def outputs(keys: Keys, path: str, want: str, samples: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the outputs, float32 [n, projection_dim], of `samples`: tokens, or the path of a file of pixels.

    They are computed one sample at a time on one thread, so that the numbers are the same in every run,
    whatever else is asked for.
    """
    clip = library.clip()
    model = clip.clip_model_load(path.encode(), 0)
    if not model:
        raise ValueError("it loads no model")
    given = np.load(samples, mmap_mode="r", allow_pickle=False) if want == "images" else samples
    found = np.empty(
        (len(given), keys.number(f"clip.{'vision' if want == 'images' else 'text'}.projection_dim")),
        np.float32,
    )
    for row, sample in zip(found, given, strict=True):
        if want == "images":
            pixels = np.ascontiguousarray(sample, np.float32)
            height, width = pixels.shape[:2]
            image = library.Image(
                width, height, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), pixels.size
            )
            done = clip.clip_image_encode(model, 1, ctypes.byref(image), row.ctypes.data, False)
        else:
            ids = (ctypes.c_int32 * len(sample))(*sample)
            done = clip.clip_text_encode(
                model, 1, ctypes.byref(library.Tokens(ids, len(ids))), row.ctypes.data, False
            )
        if not done:
            raise ValueError("it encodes nothing")
    return found


def answer(request: Mapping[str, Any], result: Path) -> None:
    """Write the answer to a request."""
    keys, want, samples = Keys(request["path"]), request["want"], request["samples"]
    if want == "keys":
        told = of_images(keys) if samples == "images" else of_texts(keys)
        result.write_text(json.dumps(told), encoding="utf-8")
    else:
        write_array(result, outputs(keys, request["path"], want, samples))


if __name__ == "__main__":
    serve(answer)

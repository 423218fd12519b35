"""A model in llama.cpp through its C interface, which gives tokens and the scores of every position. The
package's own interface does not.
"""

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.runtimes.llama_cpp.library import Batch, load

# Flash attention rounds keys and values to half precision, and so does the usual type of their cache. These
# are the setting without flash attention, and ggml's number of the type F32.
_NO_FLASH, _F32 = 0, 0
_ALL = -1  # This is the end of all tokens.


class LlamaModel:
    """A loaded model that runs one text at a time on one thread, so that the numbers are the same in every
    run.

    Its methods raise RuntimeError where the library refuses something.
    """

    def __init__(self, path: str) -> None:
        self._library = load()
        self._library.llama_backend_init()
        parameters = self._library.llama_model_default_params()
        self._parameters = self._library.llama_context_default_params()
        self._model = self._library.llama_model_load_from_file(path.encode(), parameters)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the model")
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self._context: int | None = None
        self.width: int = self._library.llama_vocab_n_tokens(self._vocabulary)

    def begin(self, longest: int, exact: bool) -> None:
        """Make room for texts of up to `longest` tokens. With `exact`, keys and values stay float32, and
        attention is not fused.
        """
        self._parameters.n_ctx = self._parameters.n_batch = self._parameters.n_ubatch = longest
        self._parameters.threads = self._parameters.threads_batch = 1
        if exact:
            self._parameters.flash_attention, self._parameters.type_k, self._parameters.type_v = (
                _NO_FLASH,
                _F32,
                _F32,
            )
        self._context = self._library.llama_init_from_model(self._model, self._parameters)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot make a context of {longest} tokens")

    def __enter__(self) -> "LlamaModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context:
            self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text by the file's vocabulary, with the special tokens that it adds. Special
        tokens within the text are found.
        """
        raw = text.encode()
        room = len(raw) + 16
        while True:
            found = (ctypes.c_int32 * room)()
            count: int = self._library.llama_tokenize(
                self._vocabulary, raw, len(raw), found, room, True, True
            )
            if count >= 0:
                return list(found[:count])
            room = -count

    @property
    def start(self) -> int | None:
        """Return the token that the decoder of a model with an encoder begins with, or None for a decoder
        alone.
        """
        return (
            self._library.llama_model_decoder_start_token(self._model)
            if self._library.llama_model_has_encoder(self._model)
            else None
        )

    def encode(self, ids: Sequence[int]) -> None:
        """Let the encoder read a text. The decoder continues from it until the next call."""
        self._run(self._library.llama_encode, "llama_encode", ids, 0, 0)

    def logits(self, ids: Sequence[int], first: int, past: int = 0) -> NDArray[np.float32]:
        """Return the scores of the token after each one, from `first` on, float32 [len(ids) - first,
        vocabulary].

        With `past`, the tokens stand behind that many tokens that were read before and whose keys and values
        are in the memory. What was read behind those is forgotten.
        """
        self._run(self._library.llama_decode, "llama_decode", ids, first, past)
        rows = [self._library.llama_get_logits_ith(self._context, i) for i in range(first, len(ids))]
        return np.stack([np.ctypeslib.as_array(row, (self.width,)) for row in rows]).copy()

    def answer(self, ids: Sequence[int], limit: int, ends: Sequence[int]) -> list[int]:
        """Return the tokens that the decoder puts behind `ids`, the likeliest each time, with the one that
        ends them.
        """
        found: list[int] = []
        scores = self.logits(ids, len(ids) - 1)
        while True:
            found.append(int(scores[0].argmax()))
            if len(found) == limit or found[-1] in ends:
                return found
            scores = self.logits(found[-1:], 0, len(ids) + len(found) - 1)

    def _run(
        self,
        function: Callable[[int | None, Batch], int],
        name: str,
        ids: Sequence[int],
        first: int,
        past: int,
    ) -> None:
        batch = self._library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = (
                    token,
                    past + i,
                    1,
                    int(i >= first),
                )
                batch.seq_id[i][0] = 0
            # The states of an encoder are not in the memory, but the library still requires their positions
            # to follow those that are.
            memory = self._library.llama_get_memory(self._context)
            if memory and not self._library.llama_memory_seq_rm(memory, 0, past, _ALL):
                raise RuntimeError(f"llama.cpp cannot go back to {past} tokens")
            if code := function(self._context, batch):
                raise RuntimeError(f"llama.cpp cannot run {len(ids)} tokens ({name} gives {code})")
        finally:
            self._library.llama_batch_free(batch)

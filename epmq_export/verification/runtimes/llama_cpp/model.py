"""A model in llama.cpp through its C interface: what tells tokens apart and scores every position, which the
package's own interface does not offer.
"""

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.runtimes.llama_cpp.library import Batch, load

# Flash attention rounds keys and values to half precision; so does their usual cache, whose types these are
# in ggml.
_NO_FLASH, _F32 = 0, 0


class LlamaModel:
    """A loaded model, one text at a time on one thread: the same numbers at every run. RuntimeError where the
    library refuses something.
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
        """Make room for texts of up to so many tokens. `exact`: keys and values stay float32, and attention
        is not fused.
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
        """By the file's vocabulary, with the special tokens that it adds; special tokens within the text are
        found.
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
        """The token that a decoder begins with, of a model whose encoder reads before it; None for a decoder
        alone.
        """
        return (
            self._library.llama_model_decoder_start_token(self._model)
            if self._library.llama_model_has_encoder(self._model)
            else None
        )

    def encode(self, ids: Sequence[int]) -> None:
        """What the decoder of a model with an encoder goes on from, until the next."""
        self._run(self._library.llama_encode, "llama_encode", ids, 0, 0)

    def logits(self, ids: Sequence[int], first: int, past: int = 0) -> NDArray[np.float32]:
        """float32 [len(ids) - first, vocabulary]: the scores of what follows each token, from `first` on.

        With `past`, the tokens stand behind as many that were read before, and whose keys and values are in
        the memory.
        """
        self._run(self._library.llama_decode, "llama_decode", ids, first, past)
        rows = [self._library.llama_get_logits_ith(self._context, i) for i in range(first, len(ids))]
        return np.stack([np.ctypeslib.as_array(row, (self.width,)) for row in rows]).copy()

    def answer(self, ids: Sequence[int], limit: int, ends: Sequence[int]) -> list[int]:
        """What the decoder goes on with behind `ids`, the likeliest token each time, with the one that ends
        it.
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
            if not past:
                # An encoder's states are not in the memory, but it is asked whether their positions go on
                # from what is.
                self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
            if code := function(self._context, batch):
                raise RuntimeError(f"llama.cpp cannot run {len(ids)} tokens ({name} gives {code})")
        finally:
            self._library.llama_batch_free(batch)

"""Other projects' quantisers, on the same merged model and the same calibration texts. `known` lists them."""

from pathlib import Path

from peers.llama_cpp import LlamaQuantize
from peers.llm_compressor import LlmCompressor
from peers.onnxruntime import MatMulNBits
from peers.peer import Merge, Peer, Quantised, linears

__all__ = ["Merge", "Peer", "Quantised", "known", "linears"]


def known(python: Path | None = None) -> dict[str, Peer]:
    """Every peer by its name; `python` runs those that need an environment of their own."""
    peers: list[Peer] = [
        LlamaQuantize(grid, importance) for grid in ("Q4_0", "Q4_K") for importance in (False, True)
    ]
    peers += [MatMulNBits("default"), MatMulNBits("HQQ"), LlmCompressor(python)]
    return {peer.name: peer for peer in peers}

"""Other projects' quantisers, on the same merged model and the same calibration texts. `known` lists them."""

from pathlib import Path

from benchmarks.peers.llama_cpp import LlamaQuantize
from benchmarks.peers.llm_compressor import LlmCompressor
from benchmarks.peers.onnxruntime import MatMulNBits
from benchmarks.peers.peer import Merge, Peer, Quantised, Run

__all__ = ["Merge", "Peer", "Quantised", "Run", "known"]


def known(python: Path | None = None) -> dict[str, Peer]:
    """Return every peer by its name; `python` runs those that need an environment of their own."""
    peers: list[Peer] = [
        LlamaQuantize(grid, importance) for grid in ("Q4_0", "Q4_K") for importance in (False, True)
    ]
    peers += [MatMulNBits("default"), MatMulNBits("HQQ"), LlmCompressor(python)]
    return {peer.name: peer for peer in peers}

"""ONNX Runtime's own 4-bit quantiser, on the ONNX file of the merged model in full precision."""

import logging
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from benchmarks.peers.peer import Merge, Quantised
from epmq_export.errors import InputError
from epmq_export.installed import registry
from epmq_export.models.blocks import linears
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime

GROUP = 32


@dataclass(frozen=True)
class MatMulNBits:
    """`onnxruntime.quantization.matmul_nbits_quantizer`: no calibration data; run at its default accuracy
    level (float32 inputs).
    """

    algorithm: str
    """`default`: to the nearest, symmetric. `HQQ`: half-quadratic, with zero points."""

    stages = ("onnx",)

    @property
    def name(self) -> str:
        return "ONNX Runtime" + ("" if self.algorithm == "default" else f" {self.algorithm}")

    @property
    def settings(self) -> dict[str, Any]:
        return {"algorithm": self.algorithm, "group": GROUP, "symmetric": self.algorithm == "default"}

    def missing(self) -> str | None:
        try:
            from onnxruntime.quantization import matmul_nbits_quantizer  # noqa: F401
        except ImportError as error:
            return f"onnxruntime {version('onnxruntime')} has no usable quantiser ({error})"
        return None

    def quantise(self, merge: Merge, folder: Path) -> Quantised:
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            HQQWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

        logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)  # it tells of every node
        path = registry().formats["onnx"].write(merge.packed, merge.family, folder)
        model = onnx.load(path)
        fold_transposes(model)
        if self.algorithm == "default":
            config = DefaultWeightOnlyQuantConfig(block_size=GROUP, is_symmetric=True)
        else:
            config = HQQWeightOnlyQuantConfig(block_size=GROUP)
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        with warnings.catch_warnings():  # HQQ gives PyTorch a view of the file's bytes, which it only reads
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            quantizer.process()
        quantised = quantizer.model.model
        onnx.save(quantised, path)
        return Quantised(_bits(quantised, merge), {"onnx": partial(OnnxRuntime().outputs, path)})


def fold_transposes(model: ModelProto) -> None:
    """Store a weight as [in, out] where the graph transposes it: the quantiser looks for weights that MatMul
    reads as they are.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [
        node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in stored
    ]:
        (order,) = (list(attribute.ints) for attribute in node.attribute)
        value = np.ascontiguousarray(numpy_helper.to_array(stored[node.input[0]]).transpose(order))
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        model.graph.node.remove(node)
        if not any(node.input[0] in other.input for other in model.graph.node):
            model.graph.initializer.remove(stored[node.input[0]])


def _bits(model: ModelProto, merge: Merge) -> float:
    """Return the bits a weight of what the 4-bit nodes read beside their input; every linear is a node."""
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    weights = [prod(merge.packed.shape(name)) for name in linears(merge.family)]
    if len(nodes) != len(weights):
        raise InputError(f"ONNX Runtime's quantiser made {len(nodes)} 4-bit layers of {len(weights)} linears")
    parts = {name for node in nodes for name in node.input[1:]}
    return (
        8
        * sum(
            numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer if tensor.name in parts
        )
        / sum(weights)
    )

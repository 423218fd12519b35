"""Files of a packed sentence encoder, written and checked as `verify` checks them, without tasks."""

from pathlib import Path

from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.models.runtime import Runtime
from epmq_export.tensors.packed import Packed
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq


def require_good_files(packed: Packed, family: Family, place: Path) -> None:
    """Write GGUF and ONNX below `place`. Codes, metadata and graph of both must pass their checks."""
    files: list[tuple[Format, Runtime, float]] = [
        (Gguf(), LlamaCpp(), 1e-3),
        (OnnxQdq(), OnnxRuntime(), 1e-5),
    ]
    for form, runtime, tolerance in files:
        (place / form.name).mkdir()
        written = form.open(form.write(packed, family, place / form.name), family)
        assert check_codes(written, packed, form.left_out(family), [runtime]).passed
        assert check_metadata(written, packed).passed
        found = check_graph(written, packed, family.exports[form.name], runtime, tolerance)
        assert found.passed, found.broken

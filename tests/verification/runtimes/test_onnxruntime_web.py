"""onnxruntime-web on written folders. A stand-in for the browser, which asks for what a page asks for, shows
what is served; a real one runs where it is installed.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.verification.runtimes.onnxruntime_web import package
from epmq_export.verification.runtimes.onnxruntime_web.runtime import OnnxRuntimeWeb
from tests.tiny import javascript
from tests.tiny.onnx_encoders import FEW_TEXTS, minilm, reference, rms

RUNTIME, ON_GPU = OnnxRuntimeWeb(), OnnxRuntimeWeb("webgpu")
BROWSER = """
import json, struct, sys
from urllib.error import HTTPError
from urllib.request import urlopen

if sys.argv[1] == "--version":
    print("Standing In 1.5 for tests")
    sys.exit()
at = sys.argv[-1]
if b"requestAdapter" in urlopen(at).read():
    swift = "--use-webgpu-adapter=swiftshader" in sys.argv
    urlopen(at + ("result" if swift else "error"), b"standing in, swift" if swift else b"no adapter")
    sys.exit()
def get(place):
    with urlopen(at + place) as answer:
        return answer.headers["Content-Type"], answer.read()
request = json.loads(get("request")[1])
if "end" in request["texts"]:
    sys.exit(3)
found = {place: get(place) for place in (
    "", "outputs.mjs", "library/transformers.min.js", "model/config.json", "wasm/ort.js")}
assert b"/outputs.mjs" in found[""][1] and found["outputs.mjs"][0] == "text/javascript", found
assert found["library/transformers.min.js"][1] == b"the library" and b"q4" in found["model/config.json"][1]
for place in ("model/none.json", "model/../secret", "else/secret", "wasm"):
    try:
        get(place)
    except HTTPError as error:
        assert error.code == 404
    else:
        raise AssertionError(place)
if "fail" in request["texts"]:
    urlopen(at + "error", b"no\\nmodel")
else:
    computes = "--use-webgpu-adapter=swiftshader" in sys.argv, "--disable-gpu" in sys.argv
    assert computes == ((True, False) if request["device"] == "webgpu" else (False, True)), sys.argv
    numbers = [x for text in request["texts"] for x in (len(text), request["options"]["normalize"])]
    urlopen(at + "result", struct.pack(f"<{len(numbers)}f", *numbers))
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model's file, where a browser and a library stand in for the real ones."""
    program = tmp_path / "browser"
    program.write_text(f"#!{sys.executable}\n{BROWSER}")
    program.chmod(0o755)
    monkeypatch.setenv(package.BROWSER, str(program))
    monkeypatch.chdir(tmp_path)
    javascript.library(tmp_path, node="", web="the library")
    (tmp_path / "out" / "secret").parent.mkdir()
    (tmp_path / "secret").write_text("")
    return javascript.folder(tmp_path / "out")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node, which finds the packages, is not on the PATH")
def test_a_page_is_served_what_it_needs_and_nothing_else(path: Path) -> None:
    assert RUNTIME.version() == "1.7.0 (transformers.js 1.5.0, Standing In, wasm)"
    found = RUNTIME.outputs(path, ["one", "three"])
    assert found.dtype == np.float32 and found.tolist() == [[3, 1], [5, 1]]
    with pytest.raises(InputError, match=r"model_q4\.onnx: onnxruntime-web fails: no model$"):
        RUNTIME.outputs(path, ["fail"])
    with pytest.raises(InputError, match=r"fails: the browser ended with 3 and no answer$"):
        RUNTIME.outputs(path, ["end"])


@pytest.mark.skipif(shutil.which("node") is None, reason="Node, which finds the packages, is not on the PATH")
def test_webgpu_is_computed_on_the_adapter_that_a_page_gets(path: Path) -> None:
    assert ON_GPU.version() == "1.7.0 (transformers.js 1.5.0, Standing In, standing in, swift)"
    assert ON_GPU.outputs(path, ["one"]).tolist() == [[3, 1]]
    with pytest.raises(InputError, match=r"model_q4\.onnx: onnxruntime-webgpu fails: no model$"):
        ON_GPU.outputs(path, ["fail"])


@pytest.mark.skipif(shutil.which("node") is None, reason="Node, which finds the packages, is not on the PATH")
def test_a_browser_without_webgpu_is_told(path: Path) -> None:
    program = path.parents[2] / "browser"
    code = program.read_text().replace("if swift else", "if not sys.argv else")
    program.write_text(
        code.replace("    swift =", '    print("ERROR: no bus", file=sys.stderr)\n    swift =')
    )
    with pytest.raises(MissingRuntime, match=r"-webgpu has no WebGPU in .*browser \(no adapter\): use "):
        ON_GPU.version()


def test_what_is_absent_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(package.BROWSER, raising=False)
    with pytest.raises(MissingRuntime, match=r"has no browser on the PATH: install Chromium or Chrome"):
        RUNTIME.version()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node, which finds the packages, is not on the PATH")
def test_a_browser_that_does_not_start_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(package.BROWSER, str(path.parent / "none"))
    with pytest.raises(MissingRuntime, match=r"has no browser that starts as .*none"):
        RUNTIME.version()


def test_the_browser_gives_what_pytorch_gives() -> None:
    try:
        RUNTIME.version()
    except MissingRuntime as error:
        pytest.skip(str(error))
    model = minilm()
    texts = tuple(map(model.family.truncate, FEW_TEXTS))
    expected = reference(model, texts)
    assert rms(RUNTIME.outputs(model.path, texts, exact=True), expected) < 3e-6
    assert rms(RUNTIME.outputs(model.path, texts), expected) < 4e-2

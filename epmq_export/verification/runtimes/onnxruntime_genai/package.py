"""The environment that has onnxruntime-genai."""

from epmq_export.verification.runtimes.environment import Environment

NAME = "onnxruntime-genai"
PYTHON = "EPMQ_ONNXRUNTIME_GENAI"
"""The environment variable with the Python to use."""

INSTALL = (
    f"pip install {NAME}, here or in an environment of its own whose python the environment variable "
    f"{PYTHON} names"
)
_VERSIONS = """
import onnxruntime, onnxruntime_genai
print(onnxruntime_genai.__version__)
print("onnxruntime", onnxruntime.__version__)
"""
_ENVIRONMENT = Environment(
    client=NAME, variable=PYTHON, versions=_VERSIONS, fails="is not found", install=INSTALL
)
python, installed = _ENVIRONMENT.python, _ENVIRONMENT.installed

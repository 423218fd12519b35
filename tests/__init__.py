"""The tests mirror the rooms: a folder a room; `tiny` has the small models and files that they run on."""

import os
from pathlib import Path

# The models are small: threads of torch and of ONNX Runtime would mostly wait for each other, and burn the
# processors of the other workers meanwhile. Libraries read this when they are loaded.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

ROOT = Path(__file__).parents[1]
"""The project's own directory."""

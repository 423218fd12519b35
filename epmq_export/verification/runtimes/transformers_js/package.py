"""Node, and the package of transformers.js where its user has it."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from epmq_export.errors import MissingRuntime

NAME, PACKAGE = "transformers.js", "@huggingface/transformers"
INSTALL = (
    f"install Node 20 or later and `npm install {PACKAGE}` in the directory that you work in, or name the "
    "node_modules that has it in Node's own environment variable NODE_PATH"
)
SECONDS = 60.0
# This prints the file of the package, and the versions of it and of what it computes with.
_LOOK = f"""
const fs = require("fs"), path = require("path");
const file = require.resolve("{PACKAGE}", {{ paths: [process.cwd()] }});
const root = path.dirname(path.dirname(file));
const told = JSON.parse(fs.readFileSync(path.join(root, "package.json")));
const wasm = path.dirname(require("module").createRequire(file).resolve("onnxruntime-web"));
const versions = {{ ...told.dependencies, version: told.version, node: process.version }};
console.log(JSON.stringify({{ ...versions, file, wasm }}));
"""


@cache
def look(directory: Path) -> Mapping[str, str]:
    """Return what Node finds from a directory on: `file`, the package's own, its `version`, that of `node`,
    those of the packages that it computes with, by their names, and `wasm`, the folder of onnxruntime-web's.

    Raises MissingRuntime where there is no Node or no package.
    """
    node = shutil.which("node")
    if node is None:
        raise MissingRuntime(f"{NAME} has no Node on the PATH: {INSTALL}")
    try:
        done = subprocess.run(
            [node, "-e", _LOOK], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=directory
        )
    except subprocess.TimeoutExpired:
        raise MissingRuntime(f"{NAME} is not found by {node} in {SECONDS:.0f} s: {INSTALL}") from None
    except OSError as error:
        raise MissingRuntime(f"{NAME} does not start in {node} ({error}): {INSTALL}") from None
    if done.returncode != 0:
        raise MissingRuntime(f"{NAME} is not found by {node} from {directory} on: {INSTALL}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def node() -> str:
    """Return the program Node."""
    return shutil.which("node") or "node"


def installed() -> str:
    """Return the version that runs, with those of Node and of the runtime in it. Raises MissingRuntime where
    there is none.
    """
    found = look(Path.cwd())
    return f"{found['version']} (node {found['node']}, onnxruntime-node {found['onnxruntime-node']})"

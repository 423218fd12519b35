"""`python cli.py` many times at the price of one start: a process that has imported what cli.py imports, and
forks for every call.

A call is a line of JSON on stdin: `arguments`, `folder` to work in, `stdout` and `stderr` (files to write),
`file_limit` (the most bytes that a file may get, or null). The answer is a line with the exit code. The child
is a process of its own, with output and signals of its own; only the imports are done already.
"""

import json
import os
import resource
import runpy
import sys
import traceback
from importlib import import_module
from typing import Any

from tests import ROOT

CLI = ROOT / "cli.py"


def main() -> None:
    for room in (
        "converters",
        "formats.gguf.format",
        "formats.onnx.format",
        "epmq_export.pipeline.calibrate",
        "epmq_export.verification.verify",
    ):
        import_module(room)
    for package in ("onnxruntime", "onnxscript", "torch._dynamo"):
        import_module(package)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def call(asked: dict[str, Any]) -> None:
    """Do what is asked, and end the process."""
    os.chdir(asked["folder"])
    for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    if asked["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_limit"],) * 2)
    sys.argv = [str(CLI), *asked["arguments"]]
    code: object = 0
    try:
        runpy.run_path(str(CLI), run_name="__main__")
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()

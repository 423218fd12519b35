"""`python cli.py` many times at the price of one start: a process that has imported what cli.py imports, and
forks for every call. Its argument is the room of the run's folders, which traces are shared by.

A call is a line of JSON on stdin: `arguments`, `folder` to work in, `stdout` and `stderr` (files to write),
`answer` (a pipe with a name), `file_limit` (the most bytes that a file may get, or null), `environment`
(other variables, null for none), `encoding` (of the streams), `closed` (those that are, by their numbers) and
`ignored` (signals that are turned off). `program` is Python that is run in place of cli.py, or null.
Into the pipe come a line with the number of the process and, at its end, one with its exit code. It is a
process of its own, with output and signals of its own; only the imports are done already. Calls run side by
side.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import traceback
import weakref
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from tests import ROOT
from tests.tiny.built_once import enter
from tests.tiny.compared_briefly import compare_briefly
from tests.tiny.traced_once import trace_once

CLI = ROOT / "cli.py"


# What commands import within functions, of this project and of others: a forked process would do it again.
# What cli.py itself imports is not among it: consoles read the environment when they are made.
LATE = (
    "converters.bert.family",
    "converters.clip.family",
    "converters.decoder.family",
    "epmq_export.pipeline.run",
    "epmq_export.publishing.page",
    "epmq_export.verification.runtimes.llama_cpp.runtime",
    "epmq_export.verification.runtimes.onnxruntime.runtime",
    "formats.gguf.format",
    "formats.onnx.format",
    "formats.safetensors.format",
    "matplotlib.backends.backend_svg",
    "onnxruntime",
    "onnxscript.function_libs.torch_lib.ops",
    "rich.progress",
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx._internal.exporter._compat",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
)


def main() -> None:
    for module in LATE:
        import_module(module)
    enter(Path(sys.argv[1]))
    trace_once()
    compare_briefly()
    leave_alone()
    for line in sys.stdin:
        asked = json.loads(line)
        answer = os.open(asked["answer"], os.O_WRONLY)
        child = os.fork()
        if child == 0:
            os.close(answer)
            call(asked)
        os.write(answer, f"{child}\n".encode())
        Thread(target=attend, args=(child, answer)).start()
    os._exit(0)


def leave_alone() -> None:
    """Let forked processes leave alone what is imported by now: one that looked for garbage there, or cleared
    it away at its end, would first have to copy it.
    """
    for finalizer in [*weakref.finalize._registry]:  # type: ignore[attr-defined]
        finalizer.atexit = False
    gc.collect()
    gc.freeze()


def attend(child: int, answer: int) -> None:
    """Wait for a child's end, and answer."""
    _, status = os.waitpid(child, 0)
    os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(answer)


def call(asked: dict[str, Any]) -> None:
    """Do what is asked, and end the process."""
    begin(asked)
    code: object = 0
    try:
        if asked["program"] is None:
            runpy.run_path(str(CLI), run_name="__main__")
        else:
            exec(asked["program"], {"__name__": "__main__"})
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def begin(asked: dict[str, Any]) -> None:
    """Make of this process what a new one would find."""
    os.chdir(asked["folder"])
    for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    for name, value in asked["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None  # It was looked for in the old environment.
    if asked["encoding"] is not None:
        for name, errors in (("stdout", "surrogateescape"), ("stderr", "backslashreplace")):
            getattr(sys, name).reconfigure(encoding=asked["encoding"], errors=errors)
    for number in asked["closed"]:  # Python has none for them, then.
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    if asked["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_limit"],) * 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in asked["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    sys.argv = [str(CLI), *asked["arguments"]]


if __name__ == "__main__":
    main()

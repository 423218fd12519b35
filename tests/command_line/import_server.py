"""What commands import, at the price of one start: a process that has imported `cli`, and beside it only the
packages that its arguments name, forks for every command.

A call is a line of JSON on stdin: the `arguments` of the command, other variables of its `environment`, and
`said`, the file for what it prints.
The answer is a line of JSON: its exit `code`, and the names of all modules that are `imported` at its end.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any

import cli


def main() -> None:
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(json.loads(line))
        os.waitpid(child, 0)


def call(asked: dict[str, Any]) -> None:
    """Run the command, answer, and end the process."""
    answer = os.dup(1)
    said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(asked["environment"])
    sys.argv = ["epmq", *asked["arguments"]]
    code: object = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        told = json.dumps({"code": code, "imported": [*sys.modules]})
        os.write(answer, f"{told}\n".encode())
        os._exit(0)


if __name__ == "__main__":
    main()

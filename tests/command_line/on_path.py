"""The command `epmq` for scripts that call it by its name, run by `warm_server`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from tests.command_line.command import Warm

# It hands over where it is called and what with, each ended by a zero, and does what it is told.
SCRIPT = """#!/bin/sh
cd "${0%/*}/.asked" || exit
printf '%s\\0' "$OLDPWD" "$@" > ask
read -r code < answer
cat stdout
cat stderr >&2
exit "$code"
"""


@contextmanager
def on_path(epmq: Warm, folder: Path) -> Iterator[str]:
    """Make `epmq` a command in a folder, which is made, too; give a PATH that finds it there."""
    asked = folder / ".asked"
    asked.mkdir(parents=True)
    for name in ("ask", "answer"):
        os.mkfifo(asked / name)
    (folder / "epmq").write_text(SCRIPT)
    (folder / "epmq").chmod(0o755)

    def answer() -> None:
        while call := (asked / "ask").read_text(encoding="utf-8"):
            place, *arguments = call.split("\0")[:-1]
            result = epmq(*arguments, folder=Path(place))
            (asked / "stdout").write_text(result.stdout, encoding="utf-8")
            (asked / "stderr").write_text(result.stderr, encoding="utf-8")
            (asked / "answer").write_text(f"{result.code}\n")

    answering = Thread(target=answer)
    answering.start()
    try:
        yield os.pathsep.join((str(folder), os.environ["PATH"]))
    finally:
        (asked / "ask").write_text("")
        answering.join(timeout=300)

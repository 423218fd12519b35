"""Systems that lack what this one has."""

import subprocess
import sys

from tests import ROOT

# What Windows has not. Libraries that ask what system they are on are left to find them.
PROGRAM = """
import builtins, importlib, pkgutil, sys, warnings

HIDDEN, ROOMS = {"resource", "fcntl", "termios", "pwd", "grp"}, ("epmq_export", "converters", "formats")
real = builtins.__import__

def hiding(name, globals=None, *others, **named):
    if name in HIDDEN and (globals or {}).get("__name__", "").partition(".")[0] in (*ROOMS, "cli"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *others, **named)

warnings.simplefilter("ignore")
builtins.__import__ = hiding
names = ["cli"]
for room in ROOMS:
    package = importlib.import_module(room)
    names += [each.name for each in pkgutil.walk_packages(package.__path__, room + ".")]
for name in names:
    importlib.import_module(name)

from epmq_export.verification.report import peak_memory
from epmq_export.verification.runtimes.process import limit
limit(1)
print(len(names), peak_memory())
"""


def test_without_the_modules_of_unix_every_module_is_imported_and_no_memory_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, told = done.stdout.split()
    assert int(count) > 100 and told == "None"

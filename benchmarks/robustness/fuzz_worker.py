"""One target under the fuzzer, in a process of its own; `benchmarks.robustness.fuzz` starts it.

    python -m benchmarks.robustness.fuzz_worker TARGET WORK FOLDER [OPTION OF LIBFUZZER...]

What a reader raises that is no refusal is kept once for each place that raises it: FOLDER/fault-N has the
bytes, and FOLDER/fault-N.txt what Python says. So is the place of a reader that takes too much time of the
processor. The fuzzer goes on. A reader that holds too much, dies, or stays in native code ends the process,
and libFuzzer keeps the bytes.
"""

import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# What is instrumented: this project, and what of its libraries is written in Python and parses files.
INSTRUMENTED = ("epmq_export", "converters", "formats", "yaml", "PIL")
HANG = 20.0
"""The seconds of the processor that a reader may take for a file, whatever else the machine does."""

_WORDS = re.compile(rb"[A-Za-z_][\w.-]{2,40}")


class Hang(BaseException):
    """A reader has taken too long. No library takes it for an error that it can go on from."""


class Faults:
    """The faults of a target, kept in a folder."""

    def __init__(self, folder: Path, hang: float = HANG) -> None:
        self._folder, self._hang = folder, hang
        signal.signal(signal.SIGPROF, _stop)
        self._known = {path.read_text(encoding="utf-8").partition("\n")[0] for path in reports(folder)}

    def guarded(self, read: Callable[[bytes], object]) -> Callable[[bytes], None]:
        """Return the reader as libFuzzer calls it: a refusal is right, and a fault is kept."""
        from epmq_export.errors import EpmqError

        def one(content: bytes) -> None:
            try:
                signal.setitimer(signal.ITIMER_PROF, self._hang)
                read(content)
            except EpmqError:
                return
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # Native libraries raise panics that are no Exceptions.
                self._keep(error, content)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)

        return one

    def _keep(self, error: BaseException, content: bytes) -> None:
        place = place_of(error)
        if place in self._known:
            return
        self._known.add(place)
        file = self._folder / f"fault-{len(self._known)}"
        file.write_bytes(content)
        told = "".join(traceback.format_exception(error))
        file.with_suffix(".txt").write_text(f"{place}\n{told}", encoding="utf-8", errors="replace")


def _stop(number: int, frame: object) -> None:
    raise Hang


def reports(folder: Path) -> list[Path]:
    """Return what is written about each fault of a target."""
    return sorted(folder.glob("fault-*.txt"))


def place_of(error: BaseException) -> str:
    """Return an error's class and the innermost line of this project that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    ours = [frame for frame in frames if any(f"/{part}/" in frame.filename for part in INSTRUMENTED[:3])]
    frame = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno} in {frame.name}"


def words(seeds: Sequence[bytes]) -> bytes:
    """Return the words of sound files as a dictionary of libFuzzer."""
    found = dict.fromkeys(word for seed in seeds for word in _WORDS.findall(seed))
    return b"".join(b'"' + word + b'"\n' for word in [*found][:500])


def main() -> None:
    name, work, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    import atheris

    with atheris.instrument_imports(include=[*INSTRUMENTED]):
        from benchmarks.robustness.fuzz_targets import TARGETS

        files, seeds, corpus = (folder / part for part in ("files", "seeds", "corpus"))
        for place in (files, seeds, corpus):
            place.mkdir(exist_ok=True)
        target = TARGETS[name](work, files)
        # The imports within functions are instrumented, too.
        for seed in target.seeds:
            target.read(seed)
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    (folder / "words").write_bytes(words(target.seeds))
    warnings.simplefilter("ignore")
    logging.disable()
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - libraries print; the log is libFuzzer's
    longest = max(4096, 2 * max(map(len, target.seeds)))
    options = [f"-dict={folder / 'words'}", f"-max_len={longest}", f"-artifact_prefix={folder}/"]
    atheris.Setup(
        [sys.argv[0], *options, *sys.argv[4:], str(corpus), str(seeds)], Faults(folder).guarded(target.read)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()

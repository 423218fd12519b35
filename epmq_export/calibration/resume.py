"""The finished parts of a calibration on disk: the results of its searches and its finished blocks. An
interrupted run continues from them, and its result has the same bytes. What the calibration ships is read
back from them, so that memory need not hold it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from epmq_export import files
from epmq_export.calibration.calibrator import BlockResult, LayerLoss
from epmq_export.calibration.differences import difference
from epmq_export.errors import InputError, RecipeError
from epmq_export.files import read_json
from epmq_export.tensors.packed import flatten, unflatten
from epmq_export.tensors.safetensors_file import SafetensorsFile, write_safetensors
from epmq_export.tensors.safetensors_header import read_header
from epmq_export.tensors.source import Joined

_RUN, _SEARCH, _GRIDS = "run.json", "search.json", "grids"
# What may change on the way: the last digits of sums depend on it.
_THREADS, _RANKS = "threads", "ranks"


class StoredBlocks(Joined):
    """The tensors of finished blocks in their files, in the parts that a packed checkpoint has."""

    grids: Mapping[str, str]
    """The grid of each tensor that is on one, by the tensor's name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files. Raises InputError where one is not whole."""
        super().__init__([SafetensorsFile(path) for path in paths])
        found = [json.loads(read_header(path).metadata[_GRIDS]) for path in paths]
        self.grids = {name: grid for grids in found for name, grid in grids.items()}


class FinishedBlocks:
    """A directory of its own with one safetensors file for each finished block. The metadata of a file holds
    the block's grids, losses and notes. run.json says which run they are of; without it they are nothing.
    """

    def __init__(
        self, directory: Path, run: Mapping[str, Any], threads: int, resume: bool, ranks: int = 1
    ) -> None:
        """Open or make the directory. `run` is everything that decides the result, as JSON has it: two runs
        with the same one and the same numbers of threads and of ranks give the same bytes.

        Without `resume`, what an earlier run left is removed. With it, RecipeError is raised where the
        earlier run was another one; it names the difference. Another number of threads or ranks is a note.
        """
        self.directory = directory
        self.notes: list[str] = []
        self._put: list[Path] = []
        mark = directory / _RUN
        if not (resume and mark.exists()):
            self.remove()
            files.make_directory(directory)
            with files.whole(mark) as built:
                built.write_text(json.dumps({**run, _THREADS: threads, _RANKS: ranks}), encoding="utf-8")
            return
        earlier = read_json(mark)
        before = {name: earlier.pop(name, 1) for name in (_THREADS, _RANKS)}
        if found := difference(earlier, json.loads(json.dumps(run))):
            raise RecipeError(
                f"{directory}: the interrupted run had another recipe, other inputs or other versions "
                f"({found}); start again with --overwrite"
            )
        for name, now in ((_THREADS, threads), (_RANKS, ranks)):
            if before[name] != now:
                given = (
                    f"--threads {before[name]} gives" if name == _THREADS else f"{before[name]} ranks give"
                )
                self.notes.append(
                    f"begun with {before[name]} {name} and gone on with {now}: a few codes may differ from "
                    f"those of one run, which {given}"
                )

    def search(self) -> dict[str, Any] | None:
        """Return what the interrupted run had found before its first block, or None."""
        path = self.directory / _SEARCH
        return read_json(path) if path.exists() else None

    def put_search(self, found: Mapping[str, Any]) -> None:
        """Write what was found before the first block, whole or not at all."""
        with files.whole(self.directory / _SEARCH) as built:
            built.write_text(json.dumps(found), encoding="utf-8")

    def put(self, block: str, result: BlockResult) -> None:
        """Write the result of a block, whole or not at all, unless an interrupted run has done that."""
        self._put.append(path := self._path(block))
        if path.exists():
            return
        stored, grids = flatten(result.tensors)
        metadata = {
            _GRIDS: json.dumps(grids),
            "losses": json.dumps([asdict(loss) for loss in result.losses]),
            "notes": json.dumps(result.notes),
            "unreached": json.dumps(result.unreached),
        }
        with files.whole(path) as built:
            write_safetensors(built, stored, metadata)

    def stored(self) -> StoredBlocks:
        """Return the tensors of all blocks that this process has put."""
        return StoredBlocks(self._put)

    def get(self, block: str) -> BlockResult | None:
        """Return the result of a finished block, or None. Raises InputError where its file cannot be read."""
        path = self._path(block)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = unflatten(
                    {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                    json.loads(metadata[_GRIDS]),
                )
            return BlockResult(
                tensors,
                [LayerLoss(**loss) for loss in json.loads(metadata["losses"])],
                json.loads(metadata["notes"]),
                json.loads(metadata["unreached"]),
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: a finished block of the interrupted run cannot be read ({error}); start again "
                "with --overwrite"
            ) from None

    def remove(self) -> None:
        """Remove the directory. What a killed process leaves of it belongs to no run."""
        files.remove(self.directory / _RUN)
        files.remove(self.directory)

    def _path(self, block: str) -> Path:
        return self.directory / f"{block}.safetensors"

"""The families, formats and runtimes that jobs may use. The composition root (`installed`) fills it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.models.runtime import Runtime
from epmq_export.tensors.checkpoint import NamingOf, OpenGguf

Value = TypeVar("Value")


class OnDemand(Mapping[str, Value], Generic[Value]):
    """Values by name, each made when it is first asked for: a command imports the formats and runtimes that
    it uses, and no others.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Value]]) -> None:
        self._makers, self._made = makers, dict[str, Value]()

    def __getitem__(self, name: str) -> Value:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@dataclass(frozen=True)
class Registry:
    """The families, formats and runtimes that the pipeline is given, because no room below `api` knows one of
    them by name.
    """

    open_family: Callable[[Path], Family]
    """A function that opens the family of a model directory. It raises InputError where there is none
    for it.
    """

    frozen: Callable[[Path], Sequence[str]]
    """A function that returns the patterns of the tensors that a merge leaves as the base's, or none for an
    unknown family.
    """

    require_same_settings: Callable[[Path, Path, str], Sequence[str]]
    """A function that compares what stands beside the weights of the base and of an expert, the expert's name
    last. It returns a sentence for each difference that is told, and raises InputError for one that changes
    what is computed.
    """

    open_gguf: OpenGguf
    """A function that opens a GGUF file as a checkpoint."""

    naming_of: NamingOf
    """A function that returns what the model of a directory calls its tensors."""

    described_in: Callable[[Path], Path | None]
    """A function that returns the directory of the config and tokenizer of a written file, or None where it
    has none. It raises InputError for a file that is not whole.
    """

    embedder_of: Callable[[Path], str | None]
    """A function that returns the name of the runtime that embeds texts by a written file alone, or None for
    a file of another kind.
    """

    formats: Mapping[str, Format]
    runtimes: Mapping[str, Runtime]

    def readers(self, family: Family, format: str, clients: Collection[str] = ()) -> list[Runtime]:
        """Return the runtimes that read a family's files of a format, and behind them those of the clients
        that are asked for.
        """
        export = family.exports[format]
        asked = [name for name in export.clients if name in clients]
        return [self.runtimes[name] for name in (*export.runtimes, *asked)]

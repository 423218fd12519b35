"""The place of an adapter in a base, by what the adapter itself says: the shapes of all its tensors together,
the class that it was trained on, and its target modules.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.tensors.adapter_settings import AdapterSettings
from epmq_export.tensors.placement import Known, Place, Shape

# A word in the names of classes that are one tower of a model, and how the tower's part of a name begins.
_TOWERS = {"Vision": "vis", "Text": "text", "Audio": "audio"}


def place_of(
    path: Path,
    settings: AdapterSettings,
    known: Known,
    stored: Mapping[str, str],
    changes: Mapping[str, Shape],
    whole: Mapping[str, Shape],
) -> Place:
    """Return the way to read an adapter's names.

    `known` has the base's tensors by plain name, their matrices as [out, in], and `stored` their own names.
    `changes` and `whole` are the shapes of what the adapter changes and replaces, by its own names. Raises
    InputError, naming `path`, where the adapter does not fit the base, or fits it in more than one place.
    """
    own = changes or _here(known, whole)
    found = known.places(own)
    if not found:
        raise _misfit(path, settings, known, own)
    fitting = [place for place in found if not _contradicts(settings.trained_on, _read(known, place, own))]
    if not fitting:
        tensor = stored[_read(known, found[0], own)[0]]
        raise InputError(
            f"{path}: the adapter was trained on a {settings.trained_on}, as {settings.path.name} says, but "
            f"in the base its tensors fit {tensor} and the like alone"
        )
    most = max(len(_read(known, place, whole)) for place in fitting)
    fitting = [place for place in fitting if len(_read(known, place, whole)) == most]
    if len(fitting) > 1:
        fitting = [place for place in fitting if not _lacks(settings, known, place, own)] or fitting
    if len(fitting) > 1:
        places = " and ".join(stored[_read(known, place, own)[0]] for place in fitting[:2])
        raise InputError(
            f"{path}: the adapter's {next(iter(own))} may be {places} of the base, expected an "
            f"adapter that fits in one place: let auto_mapping.base_model_class in {settings.path.name} name "
            "the class that it was trained on"
        )
    return fitting[0]


def _here(known: Known, whole: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Return the tensors whose last two parts a tensor of the base has; the others are of heads."""
    ends = {_end(name) for name in known.shapes}
    return {name: shape for name, shape in whole.items() if _end(known.naming.plain(name)) in ends} or whole


def _end(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _read(known: Known, place: Place, changes: Mapping[str, Shape]) -> Sequence[str]:
    """Return the base's tensors that are changed, the adapter being read so."""
    read = (known.at(place, name, shape) for name, shape in changes.items())
    return [name for name in read if name is not None]


def _contradicts(trained_on: str, names: Iterable[str]) -> bool:
    """Return whether an adapter that was trained on a class of one tower changes another one."""
    said = [start for word, start in _TOWERS.items() if word in trained_on]
    if len(said) != 1:
        return False
    others = tuple(start for start in _TOWERS.values() if start not in said)
    parts = {part for name in names for part in name.split(".")[:2]}
    return any(part.startswith(others) and part.endswith(("_model", "_tower")) for part in parts)


def _lacks(settings: AdapterSettings, known: Known, place: Place, changes: Mapping[str, Shape]) -> bool:
    """Return whether the part of the base where an adapter would be has modules that it was to change, and
    does not.
    """
    changed = set(_read(known, place, changes))
    return any(
        name.startswith(place.add) and settings.picks(name.removesuffix(".weight"))
        for name in set(known.shapes) - changed
        if name.endswith(".weight")
    )


def _misfit(path: Path, settings: AdapterSettings, known: Known, changes: Mapping[str, Shape]) -> InputError:
    """Return the error of an adapter that fits nowhere."""
    said = f"; {settings.path.name} says that it was trained on {settings.base!r}" if settings.base else ""
    plain = {known.naming.plain(name): shape for name, shape in changes.items()}
    for name, shape in plain.items():
        if known.shapes.get(name, shape) != shape:
            return InputError(
                f"{path}: the adapter's change of {name} is of shape {shape}, the base's is "
                f"{known.shapes[name]}{said}"
            )
    missing = sorted(name for name in plain if name not in known.shapes)
    return InputError(
        f"{path}: the adapter changes {missing[0]}, which the base has not ({len(missing)} such){said}"
    )

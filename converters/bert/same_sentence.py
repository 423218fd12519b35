"""Whether sentence-transformers makes the same of the tokens of two models."""

from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.tensors.directory import ADAPTER_CONFIG
from epmq_export.tensors.modules import LENGTHS, MODULES, PROMPTS, dense_weights, is_cross_encoder


def require_same_sentence(base: Path, expert: Path, name: str) -> list[str]:
    """Return a sentence for each setting of an expert's texts that differs and is told: their length and
    their prompts, which are the base's for all.

    Raises InputError, with both values, where an expert pools otherwise or has other modules behind the
    pooling. What a directory lacks is not compared, and a cross-encoder pools nothing.
    """
    from converters.bert.sentence import read_sentence  # not for other families

    if not any((expert / file).is_file() for file in (MODULES, LENGTHS, PROMPTS, "1_Pooling/config.json")):
        return []
    ours, theirs = read_sentence(base), read_sentence(expert)
    scores = is_cross_encoder(base) or is_cross_encoder(expert)
    said = all((place / MODULES).is_file() or (place / "1_Pooling").is_dir() for place in (base, expert))
    both = {
        file: all((place / file).is_file() for place in (base, expert))
        for file in (MODULES, LENGTHS, PROMPTS)
    }
    computes = {
        "the pooling": (said and not scores, " + ".join(ours.modes), " + ".join(theirs.modes)),
        f"in {MODULES} the modules": (both[MODULES] and not scores, ours.modules, theirs.modules),
        f"in {LENGTHS} do_lower_case": (both[LENGTHS], ours.lower, theirs.lower),
    }
    for what, (compared, one, other) in computes.items():
        if compared and one != other:
            raise InputError(f"{expert}: found {what} {other}, expected {one}, as {base} has it")
    if both[MODULES] and (expert / ADAPTER_CONFIG).is_file():
        _require_no_dense_of_its_own(base, expert)
    told = {
        f"{LENGTHS} has max_seq_length": (both[LENGTHS], ours.longest, theirs.longest),
        f"{PROMPTS} has the default prompt": (both[PROMPTS], ours.prompts.default, theirs.prompts.default),
    }
    return [
        f"{name}: {what} {other!r}, the base's has {one!r}: all texts are taken as the base's"
        for what, (compared, one, other) in told.items()
        if compared and one != other
    ]


def _require_no_dense_of_its_own(base: Path, adapter: Path) -> None:
    """Raise InputError for an adapter with other weights of a Dense than the base's: an adapter adds to the
    base's linears, and no Dense of its own is merged.
    """
    for (place, ours), theirs in zip(
        dense_weights(base).items(), dense_weights(adapter).values(), strict=True
    ):
        if ours.read_bytes() != theirs.read_bytes():
            raise InputError(
                f"{adapter}: found weights of {place} beside an adapter that are not the base's, expected "
                "the same, or the whole model that the adapter gives (peft: merge_and_unload)"
            )

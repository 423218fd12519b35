"""What a model is called and where it comes from, as its files and its card tell it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a file's name may hold wherever it is kept: on a disk, in a URL, in a repository of the hub.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class About:
    """The facts about a model that no tensor tells."""

    name: str
    """The model's name, such as `all-MiniLM-L6-v2-merged`."""

    base_models: tuple[str, ...] = ()
    """The hub ids of the base and the experts, the base first. Models that are no hub's are not among
    them.
    """

    license: str | None = None
    """The licence of the base, by the hub's identifier, such as `apache-2.0`."""

    languages: tuple[str, ...] = ()
    """The languages of the base, by their codes."""

    pipeline_tag: str | None = None
    """The hub's word for what the model is for, such as `sentence-similarity`."""

    @property
    def stem(self) -> str:
        """Return the name as the beginning of a file's name, without what a file's name may not hold."""
        return _UNSAFE.sub("-", self.name).strip("-.") or "model"

    def as_dict(self) -> dict[str, Any]:
        """Return the facts that are known, as packed.json has them."""
        content = {
            "name": self.name,
            "base_models": [*self.base_models],
            "license": self.license,
            "languages": [*self.languages],
            "pipeline_tag": self.pipeline_tag,
        }
        return {key: value for key, value in content.items() if value}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "About":
        """Return the facts that `as_dict` gave. Raises ValueError, with a sentence, for others."""
        for key, value in content.items():
            kind, expected = _KEYS.get(key, (None, f"one of {', '.join(_KEYS)}"))
            if kind is None:
                raise ValueError(f"found the key {key}, expected {expected}")
            texts = value if kind is list and isinstance(value, list) else [value]
            if not isinstance(value, kind) or not all(isinstance(text, str) and text for text in texts):
                raise ValueError(f"{key} is {value!r:.80}, expected {expected}")
        if "name" not in content:
            raise ValueError("name is missing, expected a text")
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**known)


_KEYS: Mapping[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "base_models": (list, "a list of hub ids"),
    "license": (str, "a text"),
    "languages": (list, "a list of codes"),
    "pipeline_tag": (str, "a text"),
}

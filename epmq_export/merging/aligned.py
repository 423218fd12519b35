"""A model with its token rows in the order of the merge's one vocabulary."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.merging.names import is_indexed
from epmq_export.merging.tokens import TokenRow
from epmq_export.merging.vocabulary import Vocabulary
from epmq_export.tensors.low_rank import Change, low_rank_change
from epmq_export.tensors.source import TypedSource

log = logging.getLogger(__name__)


class Aligned:
    """A model with its token rows in the merge's order.

    `views` are the models that it is merged with, itself among them, by location. `base` is the location of
    the model whose row is preferred to a mean.
    """

    def __init__(
        self, location: str, views: Mapping[str, TypedSource], base: str | None, vocabulary: Vocabulary
    ) -> None:
        self._location, self._views, self._base, self._vocabulary = location, views, base, vocabulary
        self._own = views[location]
        self._indexed = {
            name for name in self._own.names() if is_indexed(self._own, name, vocabulary.sizes[location])
        }

    def names(self) -> Sequence[str]:
        return self._own.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return (
            (self._vocabulary.size, *self._own.shape(name)[1:])
            if name in self._indexed
            else self._own.shape(name)
        )

    def dtype(self, name: str) -> torch.dtype:
        result = self._own.dtype(name)
        if name in self._indexed:
            for view in self._views.values():
                result = torch.promote_types(result, view.dtype(name))
        return result

    def low_rank_change(self, name: str) -> Change | None:
        return None if name in self._indexed else low_rank_change(self._own, name)

    def load(self, name: str) -> Tensor:
        if name not in self._indexed:
            return self._own.load(name)
        result = torch.zeros(self.shape(name), dtype=self.dtype(name))
        tokens = self._vocabulary.tokens
        forced = [tokens[token] for token, entry in self._vocabulary.entries.items() if entry.force]
        rows = self._vocabulary.rows[self._location].clone()
        rows[forced] = -1
        here = rows >= 0
        result[: len(rows)][here] = self._own.load(name)[rows[here]].to(result.dtype)
        self._fill(result, name, [int(row) for row in (~here).nonzero()])
        if self._vocabulary.size > len(tokens):
            result[len(tokens) :] = result[: len(tokens)].float().mean(0).to(result.dtype)
        return result

    def _fill(self, result: Tensor, name: str, missing: Sequence[int]) -> None:
        """Fill the rows that the model lacks from those that have them, with one model's tensor in memory at
        a time.
        """
        order = sorted(self._vocabulary.tokens, key=lambda token: self._vocabulary.tokens[token])
        wanted: dict[str, list[tuple[int, int]]] = {}
        givers = Counter[int]()
        for row in missing:
            for location, own in self._givers(order[row], row):
                wanted.setdefault(location, []).append((row, own))
                givers[row] += 1
        total = torch.zeros(result.shape, dtype=torch.float32)
        for location, pairs in wanted.items():
            target, source = (torch.tensor(part) for part in zip(*pairs, strict=True))
            total[target] += self._views[location].load(name)[source].float()
        for row in missing:
            if givers[row]:
                result[row] = (total[row] / givers[row]).to(result.dtype)

    def _givers(self, token: str, row: int) -> list[tuple[str, int]]:
        """Return the locations of the models whose rows make up a row, each with its own number of that
        row.
        """
        entry = self._vocabulary.entries.get(token)
        source = entry.source if entry else None
        have = [
            (location, int(self._vocabulary.rows[location][row]))
            for location in self._views
            if self._vocabulary.rows[location][row] >= 0
        ]
        if source == "zero":
            return []
        if isinstance(source, TokenRow):
            return [(source.model, self._row(source))]
        if source is not None:
            if source not in dict(have):
                raise InputError(
                    f"tokenizer.tokens.{token}: found no such token in {source} among the models merged "
                    "here, expected it there"
                )
            return [(source, dict(have)[source])]
        if not have:
            log.warning("token %r is in no model merged here: its row is zero", token)
        own = dict(have)
        return [(self._base, own[self._base])] if len(have) > 1 and self._base in own else have

    def _row(self, source: TokenRow) -> int:
        row = (
            self._vocabulary.own[source.model].get(source.token, -1)
            if isinstance(source.token, str)
            else source.token
        )
        if source.model not in self._views or not 0 <= row < self._vocabulary.sizes[source.model]:
            raise InputError(
                f"tokenizer.tokens: found no token {source.token!r} in {source.model} among the models "
                "merged here, expected it there"
            )
        return row

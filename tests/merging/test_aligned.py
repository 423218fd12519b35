"""Models in the order of one vocabulary: what is no row of a token passes through."""

import torch

from epmq_export.merging.aligned import Aligned
from epmq_export.merging.vocabulary import Vocabulary
from epmq_export.tensors.low_rank import low_rank_change
from tests.tiny.adapters import Adapter, random_product

TABLE, LINEAR = "embeddings.word_embeddings.weight", "layer.0.weight"


def test_only_linears_keep_their_factors() -> None:
    base = {TABLE: torch.ones(3, 4), LINEAR: torch.ones(4, 5)}
    adapter = Adapter(base, {TABLE: random_product((3, 4), 1, 0), LINEAR: random_product((4, 5), 2, 1)})
    tokens = {"a": 0, "b": 1, "c": 2}
    vocabulary = Vocabulary(
        tokens=tokens,
        size=3,
        rows={"adapter": torch.tensor([2, 1, 0])},
        sizes={"adapter": 3},
        own={"adapter": {"c": 0, "b": 1, "a": 2}},
        entries={},
    )
    aligned = Aligned("adapter", {"adapter": adapter}, None, vocabulary)
    assert torch.equal(aligned.load(TABLE), adapter.load(TABLE).flip(0))
    assert low_rank_change(aligned, TABLE) is None
    change = low_rank_change(aligned, LINEAR)
    assert change is not None and change.product.rank == 2

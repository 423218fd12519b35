"""The divergence between outputs, with a head and without."""

import pytest
import torch

from epmq_export.calibration.divergence import divergence
from epmq_export.errors import InputError
from epmq_export.models.heads import Columns, Head


def test_without_a_head_it_is_one_minus_the_cosine() -> None:
    outputs, expert = (
        torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]]),
        torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]]),
    )
    torch.testing.assert_close(divergence(outputs, expert, None), torch.tensor([0.0, 0.0, 1.0]))


def test_with_a_head_it_is_the_divergence_of_the_predictions() -> None:
    head = Head(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    outputs, expert = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.9]])
    p = torch.softmax(20 * torch.tensor([1.0, 0.9]) / (1.81**0.5), 0)
    wanted = (p * (p / 0.5).log()).sum()
    assert divergence(outputs, expert, head).item() == pytest.approx(wanted.item(), rel=1e-4)
    torch.testing.assert_close(torch.log_softmax(head.logits(outputs), 1), torch.full((1, 2), 0.5).log())


def test_a_linear_heads_lengths_and_bias_count() -> None:
    head = Head(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.5]))
    outputs, expert = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    p, q = torch.softmax(torch.tensor([0.0, 3.5]), 0), torch.softmax(torch.tensor([2.0, 1.5]), 0)
    torch.testing.assert_close(divergence(outputs, expert, head), (p * (p / q).log()).sum()[None])


def test_a_head_of_cosines_is_read_at_its_own_scale() -> None:
    weight, outputs, expert = torch.eye(2), torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    p = torch.softmax(5 * torch.tensor([0.6, 0.8]), 0)
    torch.testing.assert_close(
        divergence(outputs, expert, Head(weight, scale=5.0)), (p * (p / 0.5).log()).sum()[None]
    )


def test_a_head_of_another_width_is_refused() -> None:
    outputs = torch.ones(2, 3)
    for head in (Head(torch.ones(2, 4)), Head(torch.ones(2, 4), torch.zeros(2))):
        with pytest.raises(InputError, match=r"^outputs are 3 wide and the head 4, expected one width$"):
            divergence(outputs, outputs, head)


def test_what_a_head_does_not_read_is_free() -> None:
    head = Head(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    outputs = torch.tensor([[1.0, 0.5, 2.0]])
    assert divergence(outputs, outputs * torch.tensor([1.0, 1.0, -1.0]), head).item() == pytest.approx(
        0.0, abs=1e-6
    )
    assert divergence(outputs, outputs * torch.tensor([1.0, 1.0, -1.0]), None).item() > 1


def test_rounding_never_makes_it_negative() -> None:
    outputs = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    head = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    for known in (None, Head(head), Head(head, torch.ones(3))):
        assert bool((divergence(outputs, outputs * 1.0000001, known) >= 0).all())


def test_a_classifier_is_compared_by_its_own_scores() -> None:
    """What the heads of other tasks make of a text does not count, and a number counts as a chance."""
    outputs, expert = torch.tensor([[5.0, 1.0, 2.0, 0.5]]), torch.tensor([[-5.0, 1.0, 1.0, 1.5]])
    p, q = torch.softmax(torch.tensor([1.0, 1.0]), 0), torch.softmax(torch.tensor([1.0, 2.0]), 0)
    found = divergence(outputs, expert, Columns(slice(1, 3)))
    torch.testing.assert_close(found, (p * (p / q).log()).sum()[None])
    p, q = torch.sigmoid(torch.tensor([1.5, -1.5])), torch.sigmoid(torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(
        divergence(outputs, expert, Columns(slice(3, 4))), (p * (p / q).log()).sum()[None]
    )

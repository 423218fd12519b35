"""Accuracy and agreement, and the heads that read outputs."""

from collections.abc import Callable

import pytest
import torch

from epmq_export.errors import EpmqError, InputError
from epmq_export.models.heads import Head
from epmq_export.verification.tasks.scores import accuracy, agreement, predict

HEAD = Head(torch.tensor([[1.0, 0.0], [0.0, 10.0], [-1.0, 0.0]]))


def test_the_class_of_the_largest_cosine() -> None:
    outputs = torch.tensor([[3.0, 1.0], [1e-3, 1e-2], [-5e30, 1.0], [1.0, 1.1]])
    found = predict(outputs, HEAD)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 1, 2, 1]
    assert accuracy(outputs, HEAD, torch.tensor([0, 1, 2, 0])) == 0.75


def test_agreement_is_the_mean_cosine() -> None:
    a, b = (
        torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[5.0, 0.0], [0.0, -1.0], [4.0, 3.0]]),
    )
    assert agreement(a, b) == pytest.approx((1 - 1 + 24 / 25) / 3)
    assert agreement(a, a) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_score(bad: float) -> None:
    outputs = torch.ones(3, 2)
    outputs[1:, 0] = bad
    for score in (
        lambda: predict(outputs, HEAD),
        lambda: accuracy(outputs, HEAD, torch.zeros(3)),
        lambda: agreement(outputs, torch.ones(3, 2)),
    ):
        with pytest.raises(InputError, match=r"^an output is not finite: row 1, the first of 2 of 3$"):
            score()
    with pytest.raises(InputError, match=r"^a class of the head is not finite: row 1"):
        predict(torch.ones(3, 2), Head(outputs))
    with pytest.raises(InputError, match=r"^a reference output is not finite: row 1"):
        agreement(torch.ones(3, 2), outputs)


def test_scores_of_what_does_not_fit_are_refused() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: predict(torch.ones(2, 3), HEAD), "outputs are 3 wide and the head 2"),
        (lambda: predict(torch.zeros(2, 2), HEAD), "an output is all zero: row 0"),
        (lambda: predict(torch.ones(0, 2), HEAD), r"an array of shape \[0, 2\]"),
        (lambda: accuracy(torch.ones(2, 2), HEAD, torch.zeros(3)), "found 2 outputs for 3 labelled samples"),
        (lambda: agreement(torch.ones(2, 2), torch.ones(3, 2)), r"outputs \[2, 2\] and a reference \[3, 2\]"),
    ]
    for case, sentence in cases:
        with pytest.raises(EpmqError, match=sentence):
            case()


def test_a_linear_head() -> None:
    head = Head(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 5.0]))
    outputs = torch.tensor([[7.0, 1.0], [3.0, 1.0], [0.0, 0.0]])
    assert head.logits(outputs).tolist() == [[7, 6], [3, 6], [0, 5]]
    assert predict(outputs, head).tolist() == [0, 1, 1]  # zero has no direction, but it has logits
    assert head.logits(outputs.half()).dtype == torch.float16


def test_cosines_are_scaled_and_can_be_derived() -> None:
    outputs = torch.tensor([[3.0, 4.0]], requires_grad=True)
    logits = Head(torch.tensor([[0.0, 2.0]]), scale=10).logits(outputs)
    assert logits.tolist() == [[pytest.approx(8)]]
    logits.sum().backward()
    assert outputs.grad is not None and bool(torch.isfinite(outputs.grad).all())

import pytest
import torch

from epmq_export.calibration.divergence import SCALE, divergence, log_probabilities


def test_without_a_head_it_is_one_minus_the_cosine() -> None:
    outputs, expert = torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    torch.testing.assert_close(divergence(outputs, expert, None), torch.tensor([0.0, 0.0, 1.0]))


def test_with_a_head_it_is_the_divergence_of_the_predictions() -> None:
    head = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    outputs, expert = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.9]])
    p = torch.softmax(SCALE * torch.tensor([1.0, 0.9]) / (1.81**0.5), 0)
    wanted = (p * (p / 0.5).log()).sum()
    assert divergence(outputs, expert, head).item() == pytest.approx(wanted.item(), rel=1e-4)
    torch.testing.assert_close(log_probabilities(outputs, head), torch.full((1, 2), 0.5).log())


def test_what_a_head_does_not_read_is_free() -> None:
    head = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    outputs = torch.tensor([[1.0, 0.5, 2.0]])
    assert divergence(outputs, outputs * torch.tensor([1.0, 1.0, -1.0]), head).item() == pytest.approx(0.0, abs=1e-6)
    assert divergence(outputs, outputs * torch.tensor([1.0, 1.0, -1.0]), None).item() > 1


def test_rounding_never_makes_it_negative() -> None:
    outputs = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    head = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    for known in (None, head):
        assert bool((divergence(outputs, outputs * 1.0000001, known) >= 0).all())

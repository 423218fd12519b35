"""Against brute force: rows, stacked and weighted as the quadratic says, given to a general least-squares
solver in float64.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from epmq_export.calibration.solver import LinearProblem, Loss, NormProblem, inverse_factor, quadratic
from epmq_export.calibration.statistics import Moments, accumulate
from epmq_export.errors import CalibrationError
from epmq_export.tensors.low_rank import LowRank

IN, OUT = 6, 4
CPU = torch.device("cpu")


@dataclass
class Task:
    student: Tensor
    target: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def scale(self) -> float:
        """1 / n_t."""
        return 1.0 / float((self.student.T @ self.student / len(self.student)).norm())

    def moments(self) -> Moments:
        count = len(self.student)
        s, x = self.student, self.target
        return Moments(
            s.T @ s,
            x.T @ s,
            self.scale / count,
            s.mean(0),
            x.mean(0),
            self.scale,
        )

    def own(self, alpha: float) -> float:
        """E ||W x_t||^2 / n_t, where x* = alpha x_t + (1 - alpha) x_s."""
        inputs = (self.target - (1 - alpha) * self.student) / alpha
        return self.scale * float((inputs @ self.weight.T).square().sum(1).mean())

    def row_factor(self) -> float:
        """The square root of what one row weighs in L."""
        return float((self.scale / len(self.student)) ** 0.5)


@pytest.fixture
def tasks() -> list[Task]:
    """Three of unlike loudness, with inputs whose means are not zero."""
    torch.manual_seed(3)
    made = []
    for loudness, rows in ((1.0, 40), (20.0, 25), (0.1, 60)):
        student = loudness * (torch.randn(rows, IN, dtype=torch.float64) + 0.5)
        target = student + 0.3 * loudness * torch.randn(rows, IN, dtype=torch.float64)
        made.append(
            Task(
                student,
                target,
                torch.randn(OUT, IN, dtype=torch.float64),
                torch.randn(OUT, dtype=torch.float64),
            )
        )
    return made


def solve(
    tasks: list[Task], damping: float, anchor: Tensor, anchor_bias: Tensor, alpha: float = 1.0
) -> tuple[LinearProblem, Tensor]:
    """The problem with all tasks added, and its Hessian."""
    problem = LinearProblem.start(anchor, anchor_bias, damping)
    hessian = damping * torch.eye(IN, dtype=torch.float64)
    for task in tasks:
        problem.add(task.weight, task.bias, task.moments(), alpha, task.own(alpha))
        accumulate(hessian, task.moments().student, task.moments().share)
    return problem, hessian


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.7])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
def test_the_solution_is_least_squares_over_stacked_rows(
    tasks: list[Task], damping: float, alpha: float
) -> None:
    anchor = torch.randn(OUT, IN, dtype=torch.float64)
    problem, hessian = solve(tasks, damping, anchor, torch.zeros(OUT), alpha)
    rows = torch.cat(
        [task.row_factor() * task.student for task in tasks]
        + [damping**0.5 * torch.eye(IN, dtype=torch.float64)]
    )
    wanted = torch.cat(
        [task.row_factor() * task.target @ task.weight.T for task in tasks] + [damping**0.5 * anchor.T]
    )
    brute = torch.linalg.lstsq(rows, wanted).solution.T
    found = problem.solution(inverse_factor(hessian, "layer"))
    torch.testing.assert_close(found, brute, rtol=1e-10, atol=1e-10)
    # The reported loss is the residual over those rows, as a share of the targets' energy.
    energy = sum(float((task.row_factor() * task.target @ task.weight.T).square().sum()) for task in tasks)
    for weight in (found, anchor, torch.randn(OUT, IN, dtype=torch.float64)):
        residual = float((rows @ weight.T - wanted).square().sum())
        assert Loss(problem, hessian)(weight) == pytest.approx(residual / energy, rel=1e-9)
        assert Loss(problem, hessian, found)(weight) == pytest.approx(residual / energy, rel=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_what_experts_share_may_be_added_once(tasks: list[Task], alpha: float) -> None:
    """Experts that are W_0 and a product of thin factors give the same problem as their whole weights."""
    origin = torch.randn(OUT, IN)
    changes = [LowRank(torch.randn(OUT, rank), torch.randn(rank, IN)) for rank in (2, 1, 0)]
    whole, parted = (LinearProblem.start(origin, torch.zeros(OUT), 0.05) for _ in range(2))
    hessian, cross = 0.05 * torch.eye(IN, dtype=torch.float64), torch.zeros(IN, IN)
    for task, change in zip(tasks, changes, strict=True):
        exact, own = task.moments(), 0.7 if alpha else 0.0
        moments = replace(exact, student=exact.student.float(), cross=exact.cross.float())
        whole.add(origin + change.dense(), task.bias, moments, alpha, own)
        parted.add_change(change, origin, task.bias, moments, alpha, own)
        accumulate(hessian, moments.student, moments.share)
        cross += moments.share * moments.cross
    parted.add_origin(origin, cross, hessian, alpha)
    torch.testing.assert_close(parted.numerator, whole.numerator, rtol=0, atol=1e-5)
    assert parted.energy == pytest.approx(whole.energy, rel=1e-5)
    torch.testing.assert_close(parted.bias(origin), whole.bias(origin), rtol=1e-5, atol=1e-5)


def test_the_loss_is_a_parabola_around_the_solution(tasks: list[Task]) -> None:
    problem, hessian = solve(tasks, 0.05, torch.randn(OUT, IN), torch.zeros(OUT))
    best = problem.solution(inverse_factor(hessian, "layer"))
    for _ in range(5):
        step = torch.randn(OUT, IN, dtype=torch.float64)
        rise = float(((step @ hessian) * step).sum()) / problem.energy
        assert Loss(problem, hessian)(best + step) - Loss(problem, hessian)(best) == pytest.approx(
            rise, rel=1e-9
        )


def test_one_loud_task_does_not_rule(tasks: list[Task]) -> None:
    """A task's inputs a hundred times as large weigh the same."""
    anchor = torch.randn(OUT, IN, dtype=torch.float64)
    problem, hessian = solve(tasks, 0.05, anchor, torch.zeros(OUT))
    tasks[1] = Task(tasks[1].student * 100, tasks[1].target * 100, tasks[1].weight, tasks[1].bias)
    louder, same_hessian = solve(tasks, 0.05, anchor, torch.zeros(OUT))
    torch.testing.assert_close(same_hessian, hessian)
    torch.testing.assert_close(
        louder.solution(inverse_factor(same_hessian, "")), problem.solution(inverse_factor(hessian, ""))
    )


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_bias_is_least_squares_beside_a_fixed_weight(tasks: list[Task], damping: float) -> None:
    anchor_bias = torch.randn(OUT, dtype=torch.float64)
    problem, _ = solve(tasks, damping, torch.randn(OUT, IN), anchor_bias)
    shipped = torch.randn(OUT, IN, dtype=torch.float64)
    rows = torch.cat(
        [torch.full((len(task.student), 1), task.row_factor(), dtype=torch.float64) for task in tasks]
        + [torch.full((1, 1), damping**0.5, dtype=torch.float64)]
    )
    wanted = torch.cat(
        [
            task.row_factor() * (task.target @ task.weight.T + task.bias - task.student @ shipped.T)
            for task in tasks
        ]
        + [damping**0.5 * anchor_bias[None]]
    )
    brute = torch.linalg.lstsq(rows, wanted).solution[0]
    torch.testing.assert_close(problem.bias(shipped), brute, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_a_norm_is_least_squares_channel_by_channel(tasks: list[Task], damping: float) -> None:
    gamma, beta = torch.randn(IN, dtype=torch.float64), torch.randn(IN, dtype=torch.float64)
    experts = [(torch.randn(IN, dtype=torch.float64), torch.randn(IN, dtype=torch.float64)) for _ in tasks]
    problem = NormProblem.start(gamma, beta, damping)
    for task, expert in zip(tasks, experts, strict=True):
        problem.add(*expert, task.moments())
    found_gamma, found_beta = problem.solution("norm")
    assert found_beta is not None
    for channel in range(IN):
        anchors = damping**0.5 * torch.eye(2, dtype=torch.float64)
        rows = torch.cat(
            [
                task.row_factor() * torch.stack((task.student[:, channel], torch.ones(len(task.student))), 1)
                for task in tasks
            ]
            + [anchors]
        )
        wanted = torch.cat(
            [
                task.row_factor() * (expert[0][channel] * task.target[:, channel] + expert[1][channel])
                for task, expert in zip(tasks, experts, strict=True)
            ]
            + [anchors @ torch.stack((gamma[channel], beta[channel]))]
        )
        brute = torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0]
        torch.testing.assert_close(
            torch.stack((found_gamma[channel], found_beta[channel])), brute, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_a_norm_that_does_not_shift_is_least_squares_of_its_scale_alone(
    tasks: list[Task], damping: float
) -> None:
    gamma = torch.randn(IN, dtype=torch.float64)
    experts = [torch.randn(IN, dtype=torch.float64) for _ in tasks]
    problem = NormProblem.start(gamma, None, damping)
    for task, expert in zip(tasks, experts, strict=True):
        problem.add(expert, None, task.moments())
    found, beta = problem.solution("norm")
    assert beta is None
    for channel in range(IN):
        rows = torch.cat(
            [task.row_factor() * task.student[:, channel, None] for task in tasks]
            + [torch.full((1, 1), damping**0.5, dtype=torch.float64)]
        )
        wanted = [
            task.row_factor() * expert[channel] * task.target[:, channel]
            for task, expert in zip(tasks, experts, strict=True)
        ]
        brute = torch.linalg.lstsq(
            rows, torch.cat([*wanted, damping**0.5 * gamma[channel, None]])[:, None]
        ).solution[0, 0]
        torch.testing.assert_close(found[channel], brute, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [1, 7, 40])
def test_a_quadratic_of_half_the_products_is_that_of_all(width: int) -> None:
    torch.manual_seed(0)
    rows, hessian = torch.randn(5, width, dtype=torch.float64), torch.randn(width, width).double()
    hessian = hessian + hessian.T
    torch.testing.assert_close(quadratic(rows, hessian), ((rows @ hessian) * rows).sum(1))


def test_the_factor_of_the_inverse() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 33, dtype=torch.float64)
    hessian = rows.T @ rows
    upper = inverse_factor(hessian, "layer")
    assert torch.equal(upper, upper.triu()) and bool((upper.diagonal() > 0).all())
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(hessian))
    torch.testing.assert_close(upper, torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True))


def test_a_singular_hessian_is_an_error_that_names_layer_and_channel() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 8, dtype=torch.float64)
    dead = rows.clone()
    dead[:, 3] = 0
    twin = rows.clone()
    twin[:, 2] = twin[:, 6]
    few = rows[:5].float()  # a product in float32: its noise must not pass for information
    for matrix, channel in (
        (dead.T @ dead, "3"),
        (twin.T @ twin, "[26]"),
        ((few.T @ few).double(), r"\d"),
        (torch.zeros(8, 8, dtype=torch.float64), r"\d"),
    ):
        sentence = (
            rf"^encoder\.query: its Hessian is singular at input channel {channel}; raise "
            r"calibration\.lambda, or give more samples$"
        )
        with pytest.raises(CalibrationError, match=sentence):
            inverse_factor(matrix, "encoder.query")
        inverse_factor(matrix + 1e-3 * torch.eye(8), "encoder.query")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_hessian_that_is_not_finite_is_an_error(bad: float) -> None:
    matrix = torch.eye(8, dtype=torch.float64)
    matrix[4, 4] = bad
    with pytest.raises(CalibrationError, match="layer: its Hessian"):
        inverse_factor(matrix, "layer")


def test_a_dead_channel_takes_the_anchors_column(tasks: list[Task]) -> None:
    for task in tasks:
        task.student[:, 2] = 0
        task.target[:, 2] = 0
    anchor = torch.randn(OUT, IN, dtype=torch.float64)
    problem, hessian = solve(tasks, 0.05, anchor, torch.zeros(OUT))
    found = problem.solution(inverse_factor(hessian, "layer"))
    torch.testing.assert_close(found[:, 2], anchor[:, 2])
    assert not torch.allclose(found[:, 1], anchor[:, 1])


def test_a_norm_without_damping_on_dead_channels_is_an_error() -> None:
    student = torch.zeros(10, IN, dtype=torch.float64)
    student[:, :2] = torch.randn(10, 2, dtype=torch.float64)
    moments = Task(student, student, torch.zeros(OUT, IN), torch.zeros(OUT)).moments()
    for damping in (0.0, 0.1):
        problem = NormProblem.start(torch.full((IN,), 2.0), torch.full((IN,), 3.0), damping)
        problem.add(torch.ones(IN), torch.zeros(IN), moments)
        if damping:
            gamma, beta = problem.solution("norm")
            assert beta is not None and gamma[5] == 2.0 and 0 < beta[5] < 3.0
        else:
            with pytest.raises(
                CalibrationError,
                match=r"norm: channel 2 does not determine its scale and shift; raise calibration\.lambda",
            ):
                problem.solution("norm")


def test_experts_that_agree_with_the_anchor_are_the_solution(tasks: list[Task]) -> None:
    weight = torch.randn(OUT, IN, dtype=torch.float64)
    same = [Task(task.student, task.student, weight, torch.zeros(OUT)) for task in tasks]
    problem, hessian = solve(same, 0.05, weight, torch.zeros(OUT))
    torch.testing.assert_close(problem.solution(inverse_factor(hessian, "layer")), weight)
    assert Loss(problem, hessian)(weight) < 1e-12

"""The bar of a stage."""

import pytest
from rich.progress import Progress

from epmq_export.console import terminal
from epmq_export.console.progress import bar_columns


@pytest.mark.parametrize("step", ["encoder.layer.11.attention.output.LayerNorm", "gguf in llama.cpp: tasks"])
@pytest.mark.parametrize("width", [64, 80, 120])
def test_a_long_step_leaves_the_times_their_room(step: str, width: int) -> None:
    console = terminal._Console(width=width)
    bar = Progress(*bar_columns(), console=console)
    bar.add_task(step, total=4, stage="score the references", left="about 20 s left")
    with console.capture() as captured:
        console.print(bar.make_tasks_table(bar.tasks))
    (line,) = captured.get().splitlines()
    assert "score the references" in line and "0:00:00 about 20 s left" in line
    assert (step in line) == (width == 120)

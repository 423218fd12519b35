"""Several processes of torchrun's that calibrate together."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from epmq_export.tensors.packed import Packed, PackedTensor
from tests import ROOT
from tests.command_line.command import ENVIRONMENT, Result, Warm, tree
from tests.tiny import decoder, recipe_project
from tests.tiny.built_once import built_once
from tests.tiny.devices import equal_codes

# Sums in another order move last digits, and these a code that lies between two, whose error moves those of
# the columns that follow. On these models none did, on larger ones of a hundred codes one.
EQUAL = 0.95
MIXTURE = "qwen3_moe"


@pytest.fixture(scope="module")
def recipes(epmq: Warm) -> Path:
    """Return a folder with three recipes. `adapters` spends a budget of bits, which rehearses the
    calibration, of `whole` a task has more batches than one of four ranks, and the base of `mixture` is one
    of experts. One process has calibrated each, into `adapters.one` and so on.
    """
    kinds = {"adapters": recipe_project.lora_expert, "whole": recipe_project.full_expert}
    kinds["mixture"] = lambda folder, base, t: decoder.write_expert(folder, base, MIXTURE, t, size=0.3)

    def build(folder: Path) -> None:
        base = recipe_project.base(folder / "base", width=64, layers=1)
        mixture = decoder.write(folder / "of-experts", MIXTURE, num_hidden_layers=1)
        recipe_project.data(folder / "data")
        for name, expert in kinds.items():
            tasks, its = {}, mixture if name == "mixture" else base
            for t in range(2):
                with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT's doing
                    made = expert(folder / f"{name}-{t}", its, t)
                tasks[f"task{t}"] = {"expert": str(made), "calibration": f"data/{t}.txt"}
            content = {"base_model": str(its), "tasks": tasks}
            content["calibration"] = {"samples": 32, "refine": False}
            content["quantization"] = {"bits": 5.5} if name == "adapters" else {}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
            result = epmq(*command(folder, name), "-o", f"{name}.one", folder=folder)
            assert result.code == 0, result.stderr

    return built_once("ranks", build)


def command(recipes: Path, name: str) -> Sequence[str | Path]:
    return ("calibrate", recipes / f"{name}.yaml", "--format", "onnx")


def together(epmq: Warm, count: int, *arguments: str | Path, folder: Path) -> Sequence[Result]:
    """Run a command in several processes, as torchrun starts them; return what each has said."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    started = [
        epmq.start(*arguments, folder=folder, **common, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(count)
    ]
    return [each.result() for each in started]


def only_the_first_speaks(results: Sequence[Result]) -> Result:
    first, *others = results
    assert all((each.code, each.stdout, each.stderr) == (first.code, "", "") for each in others), results
    return first


def equal_share(one: Path, other: Path) -> float:
    """Return the share of equal codes of two packed checkpoints whose tensors are on the same grids."""

    def grids(packed: Packed) -> dict[str, PackedTensor | torch.Tensor]:
        return {name: packed.tensor(name) for name in packed.grids}

    left, right = Packed(one), Packed(other)
    assert left.grids == right.grids and left.grids
    return equal_codes(grids(left), grids(right))


@pytest.mark.parametrize(("count", "recipe"), [(2, "adapters"), (4, "whole"), (2, "mixture")])
def test_several_ranks_find_the_codes_of_one(
    recipes: Path, epmq: Warm, tmp_path: Path, count: int, recipe: str
) -> None:
    results = together(epmq, count, *command(recipes, recipe), "-o", "out", folder=tmp_path)
    first = only_the_first_speaks(results)
    assert (first.code, first.stdout) == (0, "out\n"), first.stderr
    assert equal_share(recipes / f"{recipe}.one", tmp_path / "out") > EQUAL
    if recipe == "adapters":
        results = together(epmq, count, *command(recipes, recipe), "-o", "again", folder=tmp_path)
        assert results[0].code == 0 and tree(tmp_path / "out") == tree(tmp_path / "again")


def test_what_is_wrong_is_told_once(recipes: Path, epmq: Warm, tmp_path: Path) -> None:
    (recipe := tmp_path / "recipe.yaml").write_text("base_model: ./nowhere\n")
    results = together(epmq, 2, "calibrate", recipe, "-o", "out", folder=tmp_path)
    assert {each.code for each in results} == {2}
    assert sum(each.stderr.count("error: ") for each in results) == 1
    version = only_the_first_speaks(together(epmq, 2, "inspect", recipes / "whole.one", folder=tmp_path))
    assert version.code == 0 and "embeddings" in version.stdout


def test_a_killed_rank_ends_the_run_and_one_process_goes_on(
    recipes: Path, epmq: Warm, tmp_path: Path
) -> None:
    """torchrun itself starts the ranks here. They need half a second, so that a kill may come too late."""
    for _ in range(10):
        code, stderr = killed(recipes, tmp_path)
        if not (tmp_path / "out").exists():
            break
        shutil.rmtree(tmp_path / "out")
    assert code == 1
    (error,) = [line for line in stderr.splitlines() if line.startswith("error: ")] or [stderr]
    assert "nothing half-written was left, and --resume goes on with a calibration" in error
    assert not (tmp_path / "out").exists()
    resumed = epmq(*command(recipes, "whole"), "-o", "out", "--resume", folder=tmp_path)
    assert resumed.code == 0 and "begun with 2 ranks and gone on with 1" in resumed.stderr
    assert equal_share(recipes / "whole.one", tmp_path / "out") > EQUAL


def killed(recipes: Path, folder: Path) -> tuple[int, str]:
    """Calibrate in two processes, of which rank 1 is killed on the way. Return torchrun's exit code and what
    was said.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", ROOT / "cli.py"]
    process = subprocess.Popen(
        [*map(str, (*torchrun, *command(recipes, "whole"))), "-o", "out"],
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline, blocks = time.monotonic() + 300, folder / ".out.blocks"
        while not (blocks / "embeddings.safetensors").exists() and not (folder / "out").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        with suppress(StopIteration, OSError):  # It may have ended.
            os.kill(rank_of(process.pid, 1), signal.SIGKILL)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, stderr


def rank_of(torchrun: int, rank: int) -> int:
    """Return the number of the process that has a rank."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text(encoding="utf-8").split()
    wanted = f"RANK={rank}".encode()
    return next(
        int(child) for child in children if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    )

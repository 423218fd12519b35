"""The parity benchmark without mergekit: its recipes all merge here, and its verdicts tell rounding from a
difference.
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import RESULTS
from benchmarks.parity import __main__ as parity
from benchmarks.parity.__main__ import merge
from benchmarks.parity.cases import Case, cases
from benchmarks.parity.compare import Row, compare, text
from benchmarks.parity.models import write_models
from epmq_export.files import read_json


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # of transformers, on PEFT's doing
        write_models(place)
    return place


def test_every_recipe_merges(models: Path, tmp_path: Path) -> None:
    asked = cases(models)
    assert len({(case.rule, case.feature) for case in asked}) == len(asked)
    for number, case in enumerate(asked):
        job = merge(case, tmp_path / str(number))
        assert (tmp_path / str(number) / "ours" / "model.safetensors").is_file()
        assert bool(job["draws"]) == case.rule.startswith(("dare", "della"))


def test_verdicts(models: Path, tmp_path: Path) -> None:
    case = next(case for case in cases(models) if case.rule == "linear")
    merge(case, tmp_path / "case")
    ours, theirs = tmp_path / "case" / "ours", tmp_path / "case" / "theirs"
    shutil.copytree(ours, theirs)
    assert compare(case, tmp_path / "case", None).verdict == "equal"
    tensors = load_file(ours / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    scale = tensors[name].abs().max()

    def verdict(changed: torch.Tensor, case: Case = case) -> str:
        save_file({**tensors, name: changed}, theirs / "model.safetensors")
        return compare(case, tmp_path / "case", None).verdict

    assert verdict(tensors[name] + scale * 2**-21) == "float32 rounding"
    assert verdict(tensors[name] + scale * 2**-18) == f"differs: {name}"
    assert (
        verdict(tensors[name] + 1, Case(case.rule, case.feature, case.recipe, known="a reason"))
        == "known to differ: a reason"
    )
    assert verdict(tensors[name].half()).startswith(f"differs: {name} is torch.float32")
    save_file({key: value for key, value in tensors.items() if key != name}, theirs / "model.safetensors")
    assert compare(case, tmp_path / "case", None).verdict.startswith(f"differs: {name} and 0 others")
    save_file(tensors, theirs / "model.safetensors")
    config = read_json(theirs / "config.json")
    (theirs / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    assert compare(case, tmp_path / "case", None).verdict.startswith("differs: config.json")
    failed = compare(case, tmp_path / "case", "TypeError: no")
    assert failed.verdict == "mergekit fails: TypeError: no"
    about = {"date": "", "machine": "", "versions": {"mergekit": "", "torch": ""}}
    assert "| linear | weights | 0 | nan | nan | mergekit fails: TypeError: no |" in text(about, [failed])


def test_the_committed_table_has_a_row_for_every_recipe() -> None:
    content = json.loads((RESULTS / "mergekit_parity.json").read_text(encoding="utf-8"))
    rows = [Row(**row) for row in content.pop("rows")]
    assert [(row.rule, row.feature) for row in rows] == [
        (case.rule, case.feature) for case in cases(Path("models"))
    ]
    assert (RESULTS / "mergekit_parity.md").read_text(encoding="utf-8") == text(content, rows)


STAND_IN = """#!{python}
import json, pathlib, shutil, sys
if sys.argv[1] == "-c":
    print("0.1 2.13 5.0")
else:
    assert sys.argv[1] == "-I" and sys.argv[2].endswith("worker.py")
    for number, job in enumerate(json.loads(pathlib.Path(sys.argv[3]).read_text())):
        theirs = pathlib.Path(job["output"])
        shutil.copytree(theirs.with_name("ours"), theirs)
        print("answer", json.dumps("it fails" if number == {failing} else None))
"""


def stand_in(folder: Path, failing: int) -> Path:
    """Write an interpreter that answers as one with mergekit does; it merges as we do."""
    path = folder / "python"
    path.write_text(STAND_IN.format(python=sys.executable, failing=failing))
    path.chmod(0o755)
    return path


def test_the_command(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "write_models", lambda place: shutil.copytree(models, place))
    monkeypatch.setattr(parity, "cases", lambda place: [cases(place)[0], cases(place)[-1]])
    parity.main(["--mergekit", str(stand_in(tmp_path, -1)), "--out", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "mergekit_parity.json").read_text())
    assert [row["verdict"] for row in content["rows"]] == ["equal", "equal"]
    assert content["versions"]["mergekit"] == "0.1"
    with pytest.raises(SystemExit) as left:
        parity.main(["--mergekit", str(stand_in(tmp_path, 1)), "--out", str(tmp_path / "out")])
    assert left.value.code == 1
    assert "mergekit fails: it fails" in (tmp_path / "out" / "mergekit_parity.md").read_text()


def test_an_interpreter_without_mergekit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no mergekit: .*No package metadata"):
        parity.main(["--mergekit", sys.executable, "--out", str(tmp_path)])

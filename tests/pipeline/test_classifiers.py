"""Experts that are classifiers: whose head a task is read by, what its classes are called."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, TaskType, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import epmq_export as epmq
from converters import naming, open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.api import registry
from epmq_export.errors import InputError, RecipeError
from epmq_export.models import reference
from epmq_export.models.classifiers import WEIGHTS
from epmq_export.models.family import heads_of
from epmq_export.models.samples import Pair
from epmq_export.pipeline.classifiers import with_classifiers
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.models import open_checkpoints
from epmq_export.pipeline.requirements import require_readable
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.tensors.packed import Packed
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.tiny import vit
from tests.tiny.classifiers import CLASSES, PAIRS, TEXTS, Classified, classified, classifier, scores
from tests.tiny.recipe_project import texts

HEAD = "head.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    """Return a project of RoBERTa's kind, whose base stores no head of its own."""
    found = classified(tmp_path_factory.mktemp("classifiers"), "roberta")
    save_file({"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}, found.directory / HEAD)
    return found


def classes(project: Classified, **changes: dict[str, object]) -> list[tuple[str, ...]]:
    return [head.classes for head in heads_of(project.models(project.recipe(**changes)).family)]


def test_classes_are_those_of_the_experts(project: Classified) -> None:
    assert classes(project) == [*CLASSES.values()]
    tasks = load_tasks(project.recipe(), project.opened.family)
    assert [task.labels for task in tasks] == [[*names] for names in CLASSES.values()]
    truth = tasks[0].truth
    assert truth is not None and truth.tolist() == [place % 3 for place in range(len(TEXTS))]
    assert all(not task.prompts and task.head is None for task in tasks)


def test_labels_name_them_anew_or_in_another_order(project: Classified) -> None:
    renamed, again = {"labels": ["no", "yes", "both"]}, {"labels": ["Dogs", "cats"]}
    assert classes(project, mood=renamed, topic=again) == [("no", "yes", "both"), ("cats", "Dogs")]


@pytest.mark.parametrize(
    ("labels", "named", "truth"),
    [
        (None, ("bad", "good", "so so"), [0, 1, 2]),
        (["so so", "Good", "bad"], ("bad", "Good", "so so"), [2, 1, 0]),
        ({"mixed": "so so", "yes": "good", "no": "bad"}, ("no", "yes", "mixed"), [2, 1, 0]),
        (["no", "yes", "mixed"], ("no", "yes", "mixed"), [0, 1, 2]),
    ],
)
def test_data_count_the_classes_as_the_recipe_does(
    project: Classified, tmp_path: Path, labels: object, named: tuple[str, ...], truth: list[int]
) -> None:
    (tmp_path / "counted.tsv").write_text("".join(f"{label}\t{label} very good\n" for label in range(3)))
    recipe = project.recipe(mood={"evaluation": str(tmp_path / "counted.tsv"), "labels": labels})
    family = project.models(recipe).family
    task = load_tasks(recipe, family)[0]
    assert heads_of(family)[0].classes == named == tuple(task.labels)
    assert task.truth is not None and task.truth.tolist() == truth


@pytest.mark.parametrize("labels", [None, ["dogs", "cats"]])
def test_data_that_call_the_classes_by_other_names(
    project: Classified, tmp_path: Path, labels: list[str] | None
) -> None:
    """Names that the head has count in capitals, too; others are taken in their order, which is told."""
    names = datasets.ClassLabel(names=["DOGS", "CATS"] if labels is None else ["hound", "kitten"])
    rows = datasets.Dataset.from_dict({"text": TEXTS[:2], "label": [0, 1]})
    rows.cast_column("label", names).to_parquet(str(tmp_path / "test.parquet"))
    recipe = project.recipe(topic={"evaluation": str(tmp_path / "test.parquet"), "labels": labels})
    task = load_tasks(recipe, project.models(recipe).family)[1]
    assert task.truth is not None and task.truth.tolist() == [1, 0]
    told = "hound for dogs, kitten for cats; the key labels tells another order"
    assert [note.rpartition("in their order: ")[2] for note in task.notes] == ([told] if labels else [])


@pytest.mark.parametrize("labels", [["a", "b"], ["good", "bad", "else"], ["a", "b", "c", "d"]])
def test_labels_that_are_not_the_heads_are_refused(project: Classified, labels: list[str]) -> None:
    """A name that is the head's own stands for that class and for no other."""
    expected = r"tasks.mood.labels: found .*, expected names for the 3 classes .*: bad, good, so so"
    with pytest.raises(RecipeError, match=expected):
        classes(project, mood={"labels": labels})


def test_some_names_may_stay(project: Classified) -> None:
    assert classes(project, mood={"labels": ["bad", "fine", "so so"]})[0] == ("bad", "fine", "so so")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"templates": ["a {} text"], "labels": ["a", "b", "c"]}, "templates"),
        ({"head": HEAD, "labels": ["a", "b", "c"]}, "head"),
        ({"expert": "./base"}, "expert"),
    ],
)
def test_all_tasks_are_read_in_one_way(project: Classified, changes: dict[str, object], key: str) -> None:
    if key == "expert":
        changes = {"expert": str(plain(project))}
    with pytest.raises(RecipeError, match=rf"tasks.mood.{key}: found .* as the expert of task topic is one"):
        classes(project, mood=changes)


def plain(project: Classified) -> Path:
    """Return an expert without a head."""
    place = project.directory / "plain"
    if not place.exists():
        place.mkdir()
        tensors = load_file(project.base / "model.safetensors")
        save_file({name: value + 0.01 for name, value in tensors.items()}, place / "model.safetensors")
        (place / "config.json").write_text((project.base / "config.json").read_text())
    return place


def test_tasks_that_say_another_head_are_read_by_it(project: Classified) -> None:
    other = {"head": HEAD, "labels": ["a", "b", "c"]}
    family = project.models(project.recipe(mood=other, topic=other)).family
    assert not heads_of(family) and family.zero_shot is not None


def test_an_expert_without_the_head_that_it_names_is_refused(project: Classified, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no tensor classifier.dense.bias, expected the whole head"):
        classes(project, mood={"expert": str(edited(project, tmp_path, drop="classifier.dense.bias"))})
    wide = {"classifier.out_proj.weight": torch.zeros(2, 64)}
    with pytest.raises(
        InputError, match=r"tensor classifier.out_proj.weight has shape \[2, 64\], expected \[3, 64\]"
    ):
        classes(project, mood={"expert": str(edited(project, tmp_path / "wide", put=wide))})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "expected one class or one number for each sample"),
        ({"problem_type": "regression"}, "found problem_type regression with 3 scores"),
        ({"id2label": {"0": "a", "1": "b"}}, "expected distinct names of the 3 classes"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "expected distinct names of the 3 classes"),
    ],
)
def test_configs_of_other_heads_are_refused(
    project: Classified, tmp_path: Path, config: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        classes(project, mood={"expert": str(edited(project, tmp_path, config=config))})


def test_classes_without_names_are_numbered(project: Classified, tmp_path: Path) -> None:
    expert = edited(project, tmp_path, config={"id2label": None})
    assert classes(project, mood={"expert": str(expert)})[0] == ("LABEL_0", "LABEL_1", "LABEL_2")


def edited(
    project: Classified,
    place: Path,
    *,
    drop: str = "",
    put: Mapping[str, torch.Tensor] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """Write the expert of the task `mood` with changes."""
    place.mkdir(exist_ok=True)
    source = project.directory / "mood"
    tensors = load_file(source / "model.safetensors") | dict(put or {})
    tensors.pop(drop, None)
    save_file(tensors, place / "model.safetensors")
    content = json.loads((source / "config.json").read_text()) | dict(config or {})
    (place / "config.json").write_text(json.dumps(content))
    return place


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's doing
def test_an_adapter_brings_the_head_that_it_saves(project: Classified, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model: Any = AutoModelForSequenceClassification.from_pretrained(project.base, num_labels=2)
    adapted = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query"]))
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value += 0.02 * torch.randn_like(value)
    adapted.save_pretrained(str(tmp_path))
    models = project.models(project.recipe(mood={"expert": str(tmp_path)}))
    assert heads_of(models.family)[0].classes == ("LABEL_0", "LABEL_1")
    own = dict(adapted.base_model.model.classifier.modules_to_save["default"].named_parameters())
    assert torch.equal(models.base.load("classifiers.0.dense.weight"), own["dense.weight"])
    assert torch.equal(models.base.load("classifiers.0.out.bias"), own["out_proj.bias"])


def test_a_single_score_is_a_number(project: Classified, tmp_path: Path) -> None:
    expert = classifier(tmp_path / "alike", project.base, ["alike"], 7)
    rows = "".join(f"{place / 2}\t{text}\n" for place, text in enumerate(TEXTS))
    (tmp_path / "numbers.tsv").write_text(rows)
    recipe = project.recipe(mood={"expert": str(expert), "evaluation": str(tmp_path / "numbers.tsv")})
    family = project.models(recipe).family
    task = load_tasks(recipe, family)[0]
    assert heads_of(family)[0].numbers and task.truth is None
    assert task.expected == ["0", "0.5", "1", "1.5", "2", "2.5"]


def test_two_columns_without_a_prompt_are_pairs(project: Classified) -> None:
    rows = [{"b": text, "a": "what is that ?", "label": place % 3} for place, text in enumerate(TEXTS)]
    (project.directory / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = {"path": "pairs.jsonl", "texts": ["a", "b"]}
    recipe = project.recipe(mood={"calibration": data, "evaluation": data})
    mood, topic = load_tasks(recipe, project.opened.family)
    assert mood.evaluation == [Pair("what is that ?", text) for text in TEXTS]
    assert {*mood.calibration} < {*mood.evaluation} and topic.evaluation == TEXTS
    assert mood.places[mood.evaluation[1]] == f"{project.directory / 'pairs.jsonl'}:2"
    require_readable(recipe, project.opened.family, ["gguf", "onnx"])
    other = {"calibration": data, "evaluation": data, "head": HEAD, "labels": ["a", "b", "c"]}
    with pytest.raises(RecipeError, match=r"mood.prompt: found nothing, .*\{a\} and \{b\}.*only classifiers"):
        load_tasks(project.recipe(mood=other), project.opened.family)
    read = {"expert": str(plain(project)), "evaluation": data, "calibration": data}
    others = {"expert": str(plain(project))}
    with pytest.raises(RecipeError, match="only classifiers read pairs of texts"):
        Job.open(project.recipe(mood=read, topic=others), registry(), torch.device("cpu"))
    by_prompt = project.recipe(mood={"calibration": data, "evaluation": data, "prompt": "{a}</s></s>{b}"})
    assert (
        load_tasks(by_prompt, project.opened.family)[0].evaluation[0] == f"what is that ?</s></s>{TEXTS[0]}"
    )


def test_texts_without_labels_are_judged_by_the_expert(project: Classified) -> None:
    recipe = project.recipe(mood={"evaluation": "texts.txt"})
    task = load_tasks(recipe, project.opened.family)[0]
    assert task.truth is None and task.expected is None and len(task.evaluation) == len(TEXTS)
    (told,) = task.notes
    assert told == (
        "task mood: its evaluation texts have no labels, so what its expert says of them is taken to be right"
    )
    with pytest.raises(RecipeError, match="found texts without labels"):
        load_tasks(
            project.recipe(mood={"evaluation": "texts.txt", "labels": ["a", "b", "c"]}), project.opened.family
        )


def test_a_head_that_the_family_has_no_place_for_is_told(
    project: Classified, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = project.recipe(topic={"head": HEAD, "labels": ["a", "b"]})
    family: Any = SimpleNamespace(name="modernbert", classifiers=None, images=None)
    experts = open_checkpoints(recipe, GgufBase, naming).experts
    assert with_classifiers(recipe, family, experts) == (family, None)
    assert caplog.messages == [
        "task mood: its expert is a classifier whose own head is left out, as no such head of a "
        "modernbert is read: the task reads the model's outputs"
    ]


@pytest.mark.parametrize("own", ["base", "other"])
def test_a_head_of_pictures_that_is_of_another_kind_is_told(
    own: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = vit.vit(tmp_path / "base", "DeiTModel")
    vit.vit(tmp_path / "one", "DeiTForImageClassificationWithTeacher", seed=1)
    save_file({"weight": torch.zeros(2, vit.WIDTH), "bias": torch.zeros(2)}, tmp_path / HEAD)
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8, 3), np.uint8), y=np.arange(4) % 2)
    data = {"path": "x.npz", "images": "x", "labels": "y"}
    task = {"expert": "./one", "calibration": data}
    if own == "other":
        task |= {"evaluation": data, "head": HEAD, "labels": ["a", "b"]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"base_model": str(base), "tasks": {"digits": task}}))
    recipe = epmq.load_recipe(path)
    experts = open_checkpoints(recipe, GgufBase, naming).experts
    with_classifiers(recipe, open_family(base), experts)
    told = [message for message in caplog.messages if "own head is left out" in message]
    assert len(told) == (own == "base")
    assert all(message.endswith("outputs; the key head reads it, of a file") for message in told)


def test_a_merge_has_the_heads_beside_it(project: Classified, tmp_path: Path) -> None:
    """The merge of one expert and its head are the expert, as transformers reads it."""
    recipe, alone = tmp_path / "recipe.yaml", project.directory / "mood"
    tasks = {"mood": {"expert": str(alone), "calibration": str(project.directory / "texts.txt")}}
    content = {"base_model": str(project.base), "merge_method": "linear"}
    recipe.write_text(yaml.safe_dump({**content, "tasks": tasks}))
    merged = epmq.merge(recipe, tmp_path / "merged")
    with safe_open(merged / WEIGHTS, "pt") as file:
        names = json.loads(file.metadata()["classes"])["mood"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    assert names == [*CLASSES["mood"]] and "- mood: bad, good, so so" in (merged / "README.md").read_text()
    model: Any = AutoModelForSequenceClassification.from_pretrained(merged, num_labels=len(names)).eval()
    for part, module in (("dense", model.classifier.dense), ("out", model.classifier.out_proj)):
        module.load_state_dict({kind: tensors[f"mood.{part}.{kind}"] for kind in ("weight", "bias")})
    found = model(**AutoTokenizer.from_pretrained(merged)(TEXTS[0], return_tensors="pt")).logits
    torch.testing.assert_close(found, scores(alone, project.base, TEXTS[:1]), atol=1e-5, rtol=0)
    # A file without tasks has the heads by the models' names, and a model without a head brings none.
    listed = [{"model": str(place), "parameters": {"weight": 0.5}} for place in (alone, plain(project))]
    recipe.write_text(yaml.safe_dump({**content, "models": listed}))
    with safe_open(epmq.merge(recipe, tmp_path / "listed") / WEIGHTS, "pt") as file:
        assert torch.equal(file.get_tensor("mood.out.weight"), tensors["mood.out.weight"])
        assert len(file.keys()) == 4
    open_family(tmp_path / "listed")  # It is an encoder, and may be the base of another merge.


def test_a_whole_run(tmp_path: Path) -> None:
    """Two classifiers become one file of each format, whose tasks are judged by their own heads."""
    project = classified(tmp_path, "bert")
    lines = "".join(f"{text}\n" for _, text in texts(0, 24, seed=1))
    (tmp_path / "texts.txt").write_text(lines)
    unlabelled: dict[str, object] = {"evaluation": "texts.txt"}
    recipe = project.recipe(mood=unlabelled, topic=unlabelled).path
    content = yaml.safe_load(recipe.read_text())
    content["calibration"] = {"samples": 16, "refine": 2}  # whose loss each head reads, too
    (tmp_path / "pairs.jsonl").write_text('{"a": "what is that ?", "b": "a"}\n' * 2)
    data = {"path": "pairs.jsonl", "texts": ["a", "b"]}
    pairs = project.recipe(mood={"calibration": data, "evaluation": data}).path
    with pytest.raises(RecipeError, match=r"yaml:\d+: tasks\.mood: found pairs of .*; leave gguf out of"):
        epmq.forecast(pairs)
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    forecast = epmq.forecast(recipe)
    assert "task mood: read by its expert's own classifier, of 3 classes (bad, good, so so)" in forecast.notes
    verdict = epmq.run(recipe, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["about"]["pipeline_tag"] == "text-classification"
    for file in verdict.files:
        assert all(file.checks[name].passed for name in ("codes", "metadata", "graph")), verdict.broken
        assert {told["measure"] for told in file.checks["tasks"].facts["by_task"].values()} == {
            "agreement with the expert"
        }
    assert report["scores"]["experts"] == {"mood": 1.0, "topic": 1.0, "average": 1.0}
    assert {Path(file.format, file.path) for file in forecast.files} <= {
        path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")
    }
    assert "`logits_` with" in (tmp_path / "out" / "README.md").read_text()
    # The ONNX model gets the types of a pair's tokens, as the check of its graph does.
    packed = Packed(tmp_path / "out" / "packed")
    family = open_family(packed.directory)
    found = OnnxRuntime().outputs(tmp_path / "out/onnx/onnx/model_q4.onnx", PAIRS[:2], exact=True)
    expected = reference.outputs(family, packed, PAIRS[:2], torch.device("cpu"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="leave gguf out of"):
        family.exports["gguf"].as_read(OnnxRuntime().outputs, Path())(PAIRS)
    for file in verdict.files:
        assert epmq.evaluate(file.path, recipe).model == pytest.approx(report["scores"][file.row])
    gguf, onnx = (file.path for file in verdict.files)
    compared = epmq.verify(onnx, against=gguf, recipe=recipe)
    assert compared.passed and compared.files[0].checks["tasks"].facts["by_task"].keys() == {"mood", "topic"}
    # A recipe that has the tasks in another order, or some of them, reads each by its own scores; a run's
    # verdict needs all of them.
    for names in (("topic", "mood"), ("topic",)):
        content["tasks"] = {name: content["tasks"][name] for name in names}
        other = tmp_path / "other.yaml"
        other.write_text(yaml.safe_dump(content, sort_keys=False))
        for path, row in (
            (gguf, verdict.files[0].row),
            (onnx, verdict.files[1].row),
            (tmp_path / "out/packed", "reference"),
        ):
            scores_of_tasks = epmq.evaluate(path, other).model
            assert {name: scores_of_tasks[name] for name in names} == pytest.approx(
                {name: report["scores"][row][name] for name in names}
            )
        with pytest.raises(
            RecipeError, match=r"tasks: found the classifiers of topic \(2\).*order: mood \(3\), top"
        ):
            epmq.verify(tmp_path / "out", recipe=other)
    content["tasks"] = {"feeling": content["tasks"]["topic"]}
    other.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(
        InputError, match=r"found the classifiers mood \(3 classes\), .* of task feeling \(2 cl"
    ):
        epmq.evaluate(onnx, other)
    # Without a whole file of heads each check that needs it says so in a sentence.
    heads = tmp_path / "out" / "gguf" / WEIGHTS
    heads.write_bytes(heads.read_bytes()[:-8])
    again = epmq.verify(tmp_path / "out")
    assert not again.passed and [WEIGHTS in sentence for sentence in again.broken] == [True, True]


def test_a_first_recipe_leaves_the_classes_to_the_head(project: Classified, tmp_path: Path) -> None:
    (tmp_path / "mood.train.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    (tmp_path / "mood.test.tsv").write_text((project.directory / "mood.tsv").read_text())
    base, expert = str(project.base), str(project.directory / "mood")
    path = epmq.init(base, [expert], tmp_path / "first.yaml", data=tmp_path)
    task = yaml.safe_load(path.read_text())["tasks"]["mood"]
    assert task.keys() == {"expert", "calibration", "evaluation"}
    assert "own head tells the classes" in path.read_text()
    (tmp_path / "mood.labels.json").write_text('["so so", "good", "bad"]')
    path = epmq.init(base, [expert], tmp_path / "counted.yaml", data=tmp_path)
    assert yaml.safe_load(path.read_text())["tasks"]["mood"]["labels"] == "mood.labels.json"

"""The trainings, a few steps of each on small models: what is written, what learns, and what is skipped."""

import json
import shutil
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPModel, Dinov2Config, Dinov2Model, PreTrainedTokenizerBase

from benchmarks.accuracy.laboratory import Laboratory
from benchmarks.experts import classifiers, clip, clip_model, dinov2, language, text, training, vit
from benchmarks.experts.language_tasks import LanguageTask
from epmq_export.tensors.modules import PROMPTS
from tests.benchmarks.stand_ins import image_data, text_task
from tests.tiny import decoder as tiny_decoder
from tests.tiny import t5 as tiny_t5

FEW = ("--steps", "2", "--batch-size", "4")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "text"
    text_task(folder / "sst2")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_data(tmp_path_factory.mktemp("data") / "image")


def run(command: str, *arguments: object) -> None:
    commands = {"text": text, "classifiers": classifiers, "language": language, "clip": clip, "vit": vit}
    commands[command].main([str(each) for each in arguments])


def test_a_text_expert_moves_the_encoder_alone_and_is_trained_once(
    laboratory: Laboratory,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    embed = text.embed

    def reading(model: nn.Module, tokenizer: PreTrainedTokenizerBase, given: list[str]) -> Tensor:
        read.extend(given)
        return embed(model, tokenizer, given)

    monkeypatch.setattr(text, "embed", reading)
    base = shutil.copytree(laboratory.base, tmp_path / "base")
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (base / PROMPTS).write_text(json.dumps(prompts))
    asked = ("--base", base, "--data", texts, "--out", tmp_path / "out", *FEW, "sst2")
    run("text", *asked)
    assert "sst2 step 2/2 loss " in capsys.readouterr().out
    assert "query: good" in read and all(each.startswith("query: ") for each in read)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out" / "sst2"))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("encoder.") for name in moved)
    for kept in ("1_Pooling/config.json", PROMPTS):
        assert (tmp_path / "out" / "sst2" / kept).read_bytes() == (base / kept).read_bytes()
    run("text", *asked)
    assert capsys.readouterr().out == "sst2: already there\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sst2"]


def test_a_classifier_has_its_own_head(
    laboratory: Laboratory, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("classifiers", "--base", laboratory.base, "--data", texts, "--out", out, *FEW, "sst2")
    assert "sst2: accuracy " in capsys.readouterr().out
    found = load_file(out / "sst2" / "model.safetensors")
    before = load_file(laboratory.base / "model.safetensors")
    table = "embeddings.word_embeddings.weight"
    assert found["classifier.weight"].shape[0] == 2 and "bert.pooler.dense.weight" in found
    assert torch.equal(found[f"bert.{table}"], before[table])
    assert json.loads((out / "sst2" / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's doing
def test_adapters_are_kept_in_half_precision(laboratory: Laboratory, texts: Path, tmp_path: Path) -> None:
    tiny_decoder.model("llama").save_pretrained(tmp_path / "llama")
    tiny_decoder.tokenizer().save_pretrained(tmp_path / "llama")
    tiny_t5.t5(tmp_path / "t5")
    run(
        "text",
        "--base",
        laboratory.base,
        "--data",
        texts,
        "--out",
        tmp_path / "bert-out",
        "--lora",
        2,
        *FEW,
        "sst2",
    )
    for base in ("llama", "t5"):
        asked = ("--base", tmp_path / base, "--data", texts, "--out", tmp_path / f"{base}-out", "--rank", 2)
        run("language", *asked, *FEW, "sst2")
    for base, linears in (("bert", 12), ("llama", 14), ("t5", 38)):
        adapter = tmp_path / f"{base}-out" / "sst2"
        weights = load_file(adapter / "adapter_model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float16}
        assert len(weights) == 2 * linears, base
        assert any(value.any() for name, value in weights.items() if "lora_B" in name)
        assert sorted(path.name for path in adapter.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]


def test_the_likeliest_answer_is_scored() -> None:
    """Where all tokens are equally likely, the shorter answer is the likelier."""
    model, tokenizer = tiny_decoder.model("llama"), tiny_decoder.tokenizer()
    task = LanguageTask("Review: {}\nAnswer:", (" no", " negative"))
    short, long = (tokenizer(answer)["input_ids"] for answer in task.answers)
    assert len(short) < len(long)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
        logits, targets, owners = language.answer_logits(model, tokenizer, ["a", "b c"], list(task.answers))
    assert targets.tolist() == short + long
    assert owners.tolist() == [0] * len(short) + [1] * len(long)
    assert not logits.any() and logits.shape == (len(targets), tiny_decoder.VOCABULARY)
    assert language.accuracy(model, tokenizer, task, [(0, "bad"), (1, "good"), (1, "good")]) == 1 / 3


def test_a_small_clip_and_its_expert(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_model, "LAYERS", 1)
    monkeypatch.setattr(clip_model, "WIDTH", 24)
    monkeypatch.setattr(clip, "tell_apart", partial(clip.tell_apart, steps=2))
    run("clip", "--data", images, "--out", tmp_path, *FEW, "base")
    run("clip", "--data", images, "--out", tmp_path, *FEW, "experts", "mnist")
    base, expert = (CLIPModel.from_pretrained(tmp_path / name).state_dict() for name in ("base", "mnist"))
    moved = {name for name, value in expert.items() if not torch.equal(value, base[name])}
    assert moved and all(name.startswith("vision_model.") for name in moved)


def test_a_half_of_the_captions_that_name_a_neighbour_stay_within_their_task(images: Path) -> None:
    prompts = clip.prompts_of(images)
    mixture = clip.Mixture.read(images, prompts)
    ends = np.cumsum([len(prompts[task]) for task in clip.TASKS])
    owner = np.searchsorted(ends, mixture.labels.numpy(), side="right")
    assert np.array_equal(owner, np.searchsorted(ends, mixture.neighbours.numpy(), side="right"))
    assert (mixture.labels == mixture.neighbours).any()  # the odd one of an odd number of classes
    assert (mixture.labels != mixture.neighbours).any()


@pytest.fixture
def small_dinov2(monkeypatch: pytest.MonkeyPatch) -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=4,
        image_size=56,
        patch_size=14,
    )
    model = Dinov2Model(config)
    model.eval()
    for name, value in (("WIDTH", 32), ("LAYERS", 2), ("HEADS", 2), ("SIDE", 56)):
        monkeypatch.setattr(dinov2, name, value)
    return model


def test_an_image_expert_is_trained_against_a_frozen_head(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_dinov2: Dinov2Model
) -> None:
    monkeypatch.setattr(vit, "packaged", lambda: None)
    monkeypatch.setattr(vit, "model_of", lambda path: small_dinov2)
    run("vit", "--data", images, "--out", tmp_path, "base")
    heads = {path.stem: path.read_bytes() for path in (tmp_path / "heads").iterdir()}
    assert sorted(heads) == sorted(vit.TASKS)
    run("vit", "--data", images, "--out", tmp_path, *FEW, "experts", "mnist")
    assert {path.stem: path.read_bytes() for path in (tmp_path / "heads").iterdir()} == heads
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "mnist"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.isfinite().all() for value in after.values())


def test_dinov2_is_read_from_an_onnx_file(tmp_path: Path, small_dinov2: Dinov2Model) -> None:
    """Matrices stand transposed in it, under names that only their nodes tell; the table of positions is in
    two parts.
    """
    back = {here: there for there, here in dinov2._LINEARS.items()}
    stored, nodes = {}, []
    for name, value in small_dinov2.state_dict().items():
        array, place = value.numpy(), name.removeprefix("encoder.layer.")
        layer, _, rest = place.partition(".")
        linear = rest.removesuffix(".weight").removesuffix(".bias")
        if name == "embeddings.position_embeddings":
            stored |= {"first": array[:, :1], "patches": array[:, 1:]}
        elif name == "embeddings.mask_token":
            continue
        elif linear in back and rest.endswith(".weight"):
            matrix = f"onnx::MatMul_{len(nodes)}"
            stored[matrix] = array.T
            node = f"/backbone/encoder/layer.{layer}/{back[linear]}/MatMul"
            nodes.append(onnx.helper.make_node("MatMul", ["x", matrix], [f"y{len(nodes)}"], name=node))
        elif linear in back:
            stored[f"backbone.encoder.layer.{layer}.{back[linear].replace('/', '.')}.bias"] = array
        else:
            stored[f"backbone.{name}"] = array
    tensors = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(each), name) for name, each in stored.items()
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    found = dinov2.model_of(tmp_path / "model.onnx").state_dict()
    for name, value in small_dinov2.state_dict().items():
        assert torch.equal(found[name], value) or name == "embeddings.mask_token", name


def test_batches_are_whole_and_an_order_has_each_row_once() -> None:
    draw = training.batches(7, 3, torch.Generator().manual_seed(0))
    one, two, three = islice(draw, 3)
    assert len({*one.tolist(), *two.tolist()}) == 6 and len(three) == 3
    alone = training.batches(2, 3, torch.Generator().manual_seed(0))
    assert [sorted(rows.tolist()) for rows in islice(alone, 2)] == [[0, 1], [0, 1]]


def test_fitting_goes_down_in_steps_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    start = model.weight.detach().clone()
    descent = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(descent, lambda step: 1.0)
    training.fit("it", model, lambda step: 1e6 * model.weight.square().sum(), (descent, schedule), 1)
    assert float((model.weight.detach() - start).norm()) == pytest.approx(0.5, abs=1e-4)
    told = capsys.readouterr().out.split()
    assert told[:4] == ["it", "step", "1/1", "loss"]
    assert float(told[4]) == pytest.approx(1e6 * float(start.square().sum()), rel=1e-5)


def test_schedules_rise_and_fall() -> None:
    model = nn.Linear(3, 2)
    asked = training.Settings(steps=40, batch_size=1, rate=1.0)
    for optimiser, schedule in (
        training.linear_descent(model, asked, 10),
        training.cosine_descent(model.parameters(), asked.rate, asked.steps),
    ):
        rates = []
        for _ in range(asked.steps):
            rates.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        top = rates.index(max(rates))
        assert 0 < rates[0] < rates[top] and rates[top:] == sorted(rates[top:], reverse=True)
        assert rates[-1] < 0.05

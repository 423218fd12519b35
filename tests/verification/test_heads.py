"""What outputs are read by: heads of label texts, linear heads of files, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import CLIPModel

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.verification.heads import head_of
from tests.tiny.calibrated_bert import CPU, Tiny, tiny
from tests.tiny.shallow_clip import CONTEXT, PROJECTION, TinyClip, clip, opened

PROMPTS = [["a cat.", "the cat"], ["a dog.", "the dog", "one of the dogs"], ["x"]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def model(directory: Path) -> TinyClip:
    return opened(directory)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("bert") / "model")


def task(prompts: list[list[str]] = PROMPTS, head: Path | None = None, truth: bool = True) -> Task:
    labels = [f"class {i}" for i in range(len(prompts))]
    return Task(
        "animals",
        "./expert",
        [],
        [],
        torch.zeros(1, dtype=torch.int64) if truth else None,
        labels,
        prompts,
        head,
    )


def test_a_task_without_classes_has_none(model: TinyClip) -> None:
    assert head_of(task([], truth=False), model.family, model.base, CPU) is None


def test_a_class_is_the_unit_mean_of_its_unit_prompts(model: TinyClip, directory: Path) -> None:
    """Compare the head with what CLIP's own recipe makes of transformers' whole model."""
    head = head_of(task(), model.family, model.base, CPU)
    assert (
        head is not None
        and head.bias is None
        and head.weight.dtype == torch.float32
        and head.weight.shape == (3, PROJECTION)
    )
    whole = CLIPModel.from_pretrained(directory).eval()
    rows = []
    for texts in PROMPTS:
        encoded = model.family.text_tower.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(
                normalize(
                    normalize(whole.text_projection(whole.text_model(**encoded).pooler_output), dim=1).mean(
                        0
                    ),
                    dim=0,
                )
            )
    torch.testing.assert_close(head.weight, torch.stack(rows), atol=1e-5, rtol=1e-4)
    assert head.scale == pytest.approx(float(whole.logit_scale.detach().exp()))


def test_a_text_encoder_reads_labels_at_twenty(bert: Tiny) -> None:
    head = head_of(task([["good"], ["cafe"]]), bert.family, bert.base, CPU)
    assert head is not None and head.scale == 20.0
    embedded = torch.from_numpy(reference.outputs(bert.family, bert.base, ["good", "cafe"], CPU))
    torch.testing.assert_close(head.weight, normalize(embedded, dim=1))


def test_a_prompt_that_is_too_long_is_cut(model: TinyClip) -> None:
    long = "a " * CONTEXT
    head = head_of(task([[long], [long + "b"]]), model.family, model.base, CPU)
    assert head is not None and torch.equal(head.weight[0], head.weight[1])


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_head_is_read_as_it_is(model: TinyClip, tmp_path: Path, bias: bool) -> None:
    weight, given = torch.randn(3, PROJECTION), torch.randn(3)
    save_file({"weight": weight.half(), **({"bias": given} if bias else {})}, tmp_path / "head.safetensors")
    head = head_of(task(head=tmp_path / "head.safetensors"), model.family, model.base, CPU)
    assert (
        head is not None and head.bias is not None and head.weight.dtype == head.bias.dtype == torch.float32
    )
    assert torch.equal(head.weight, weight.half().float()) and torch.equal(
        head.bias, given if bias else torch.zeros(3)
    )
    outputs = torch.randn(2, PROJECTION)
    torch.testing.assert_close(head.logits(outputs), outputs @ head.weight.T + head.bias)


@pytest.mark.parametrize(
    ("weight", "bias", "found"),
    [
        ((4, PROJECTION), (4,), r"weight \[4, 32\] and bias \[4\]"),
        ((3, PROJECTION), (4,), r"weight \[3, 32\] and bias \[4\]"),
        ((3, PROJECTION), (3, 1), r"weight \[3, 32\] and bias \[3, 1\]"),
        ((3,), (3,), r"weight \[3\] and bias \[3\]"),
        ((), (), r"weight \[\] and bias \[\]"),
        ((3,), None, r"weight \[3\] and bias \[3\]"),
        ((), None, r"weight \[\] and bias \[\]"),
    ],
)
def test_a_head_of_other_shapes_is_refused(
    model: TinyClip, tmp_path: Path, weight: tuple[int, ...], bias: tuple[int, ...] | None, found: str
) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(weight), **({} if bias is None else {"bias": torch.zeros(bias)})}, path)
    with pytest.raises(
        InputError,
        match=(
            rf"head\.safetensors: found {found}, expected \[3, width\] and \[3\] for the 3 classes of "
            r"task animals"
        ),
    ) as error:
        head_of(task(head=path), model.family, model.base, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_is_not_finite_is_refused(model: TinyClip, tmp_path: Path, part: str) -> None:
    tensors = {"weight": torch.ones(3, PROJECTION), "bias": torch.zeros(3)}
    tensors[part].view(-1)[1] = torch.nan
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match=rf"head\.safetensors: tensor {part} has values that are not finite"):
        head_of(task(head=tmp_path / "head.safetensors"), model.family, model.base, CPU)


def test_a_head_without_a_weight_names_the_file(model: TinyClip, tmp_path: Path) -> None:
    save_file({"classifier": torch.zeros(3, PROJECTION)}, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match=r"head\.safetensors.*weight"):
        head_of(task(head=tmp_path / "head.safetensors"), model.family, model.base, CPU)


def test_a_family_without_a_text_tower_needs_a_file(model: TinyClip, tmp_path: Path) -> None:
    blind: Any = SimpleNamespace(name="dinov2", zero_shot=None)
    with pytest.raises(
        InputError,
        match=(
            r"task animals: family dinov2 embeds no texts, expected a linear head \(the task's key "
            r"`head`\)"
        ),
    ):
        head_of(task(), blind, model.base, CPU)
    save_file({"weight": torch.ones(3, 5)}, tmp_path / "head.safetensors")
    head = head_of(task(head=tmp_path / "head.safetensors"), blind, model.base, CPU)
    assert head is not None and head.weight.shape == (3, 5)

"""A model run block by block, and the inputs of its linears."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from converters import open_family
from epmq_export.errors import InputError
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.family import Batch, Family
from tests.tiny.bert import small_bert
from tests.tiny.in_memory import InMemory

CPU = torch.device("cpu")
TEXTS = ["the weather is good", "good", "is the café good!"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, BertModel, Batch]:
    source = small_bert(tmp_path_factory.mktemp("forward") / "model")
    family = open_family(source)
    torch.manual_seed(0)
    bert = BertModel(BertConfig.from_pretrained(source), add_pooling_layer=False)
    bert.train(False)
    return family, bert, next(family.batches(TEXTS, 3))


def weights(bert: BertModel) -> InMemory:
    return InMemory(bert.state_dict())


@torch.no_grad()
def test_block_by_block_is_the_model(model: tuple[Family, BertModel, Batch]) -> None:
    family, bert, batch = model
    hidden = None
    for block in family.blocks:
        hidden = run_block(block, load_block(block, weights(bert), CPU), hidden, batch, CPU)
    rows = batch["attention_mask"].bool()
    assert hidden is not None
    torch.testing.assert_close(hidden[rows], bert(**batch).last_hidden_state[rows])


@torch.no_grad()
def test_the_inputs_are_those_of_a_direct_computation(model: tuple[Family, BertModel, Batch]) -> None:
    family, bert, batch = model
    stem, first = family.blocks[0], family.blocks[1]
    hidden = run_block(stem, load_block(stem, weights(bert), CPU), None, batch, CPU)
    module = load_block(first, weights(bert), CPU)
    paths = [step[0] for step in first.steps]
    seen, result = inputs_of(module, paths, partial(run_block, first, module, hidden, batch, CPU), stop=False)
    layer: Any = bert.encoder.layer[0]

    def heads(value: Tensor) -> Tensor:
        return value.reshape(*value.shape[:2], 4, 16).transpose(1, 2)

    def normal(value: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        result: Tensor = (
            centred / (centred.square().mean(-1, keepdim=True) + layer.output.LayerNorm.eps).sqrt()
        )
        return result

    own = layer.attention.self
    scores = (
        heads(own.query(hidden)) @ heads(own.key(hidden)).transpose(2, 3) / 4
        + (1 - batch["attention_mask"][:, None, None, :].float()) * -1e9
    )
    context = (scores.softmax(-1) @ heads(own.value(hidden))).transpose(1, 2).flatten(2)
    attended = layer.attention.output.dense(context) + hidden
    normed = layer.attention.output.LayerNorm(attended)
    inner = nn.functional.gelu(layer.intermediate.dense(normed))
    outer = layer.output.dense(inner) + normed
    for found, wanted in zip(
        seen, (hidden, context, normal(attended), normed, inner, normal(outer)), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result, layer.output.LayerNorm(outer), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_stops_at_the_last_wanted_input_and_leaves_no_hook(model: tuple[Family, BertModel, Batch]) -> None:
    family, bert, batch = model
    stem, first = family.blocks[0], family.blocks[1]
    hidden = run_block(stem, load_block(stem, weights(bert), CPU), None, batch, CPU)
    module = load_block(first, weights(bert), CPU)
    reached: list[str] = []
    for path in ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"):
        module.get_submodule(path).register_forward_hook(lambda *_, path=path: reached.append(path))
    run = partial(run_block, first, module, hidden, batch, CPU)
    seen, result = inputs_of(module, ["attention.self.query", "attention.output.dense"], run, stop=True)
    assert len(seen) == 2 and result is None and reached == ["attention.self.query"]
    assert all(not submodule._forward_pre_hooks for submodule in module.modules())

    def broken() -> Tensor:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        inputs_of(module, ["output.dense"], broken, stop=True)
    assert all(not submodule._forward_pre_hooks for submodule in module.modules())


def test_a_tensor_of_another_shape_is_named(model: tuple[Family, BertModel, Batch]) -> None:
    family, bert, _ = model
    source = weights(bert)
    source.tensors = {**source.tensors, "encoder.layer.1.output.dense.weight": torch.ones(3, 2)}
    load_block(family.blocks[1], source, CPU)
    with pytest.raises(
        InputError,
        match=(
            r"tensor encoder\.layer\.1\.output\.dense\.weight has shape \[3, 2\], expected \[64, 128\] by "
            r"config\.json"
        ),
    ):
        load_block(family.blocks[2], source, CPU)


def test_weights_are_computed_with_in_float32(model: tuple[Family, BertModel, Batch]) -> None:
    family, bert, _ = model
    halves = InMemory({name: value.half() for name, value in bert.state_dict().items()})
    assert {value.dtype for value in load_block(family.blocks[1], halves, CPU).state_dict().values()} == {
        torch.float32
    }

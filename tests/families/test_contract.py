"""What every family has to give (epmq_export/models/family.py), held by a small model of each."""

import re
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters import EMBEDDERS, FAMILIES, frozen, open_family
from epmq_export.calibration.rounding import nearest
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.models.blocks import alike, inputs_of, linears, load_block, paths, run_block
from epmq_export.models.family import Family, halves, of_cosines, rows, towers
from epmq_export.models.format import PlannedTensor
from epmq_export.models.greedy import answers
from epmq_export.models.mixture import seen_at
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.samples import Sample
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed
from formats.gguf.format import Gguf, spec_of
from formats.onnx.format import specs_of
from tests.families.conftest import Opened
from tests.families.models import EMBEDS, MODELS
from tests.tiny.devices import DEVICES, a_gpu
from tests.tiny.packed_index import an_index

CPU = torch.device("cpu")
NORMS = (nn.LayerNorm, RmsNorm)


def tensors_of(family: Family) -> set[str]:
    """Return the names of what the family's blocks hold, a frozen tower's and those of cosines with them."""
    held = {
        f"{block.prefix}{path}"
        for tower in towers(family)
        for block in tower.blocks
        for path in block.build().state_dict()
    }
    return held.union(of_cosines(family))


def test_every_family_is_tested() -> None:
    assert MODELS.keys() == FAMILIES.keys() | {f"{kind}{EMBEDS}" for kind in EMBEDDERS}


def test_the_checkpoints_names_are_the_blocks_names(opened: Opened) -> None:
    assert tensors_of(opened.family) == set(opened.source.names())
    for name in opened.source.names():  # what is canonical stays
        assert opened.family.canonical(name) == name
    assert opened.family.canonical("no.such.tensor") in (None, "no.such.tensor")


def test_tensors_that_are_named_are_there(opened: Opened) -> None:
    family, names = opened.family, set(opened.source.names())
    assert {*family.embeddings, *halves(family), *linears(family)} <= names
    assert all(any(fnmatchcase(name, pattern) for name in names) for pattern in family.frozen)
    assert [*frozen(opened.directory)] == [*family.frozen]
    moving = {name for name in names if not any(fnmatchcase(name, pattern) for pattern in family.frozen)}
    assert set(linears(family)) <= moving


def test_blocks_have_names_of_their_own(opened: Opened) -> None:
    names = [block.name for block in opened.family.blocks]
    assert len(names) > 2 and len({*names}) == len(names)


def test_steps_are_linears_or_a_norm(opened: Opened) -> None:
    found = []
    for block in opened.family.blocks:
        module = block.build()
        assert all(value.is_meta for value in module.state_dict().values()) and not module.training
        for step in block.steps:
            members = [module.get_submodule(path) for path in step]
            if isinstance(members[0], nn.Linear):
                assert all(isinstance(member, nn.Linear) for member in members)
                found += [f"{block.prefix}{path}.weight" for path in step]
            else:
                assert len(members) == 1 and isinstance(members[0], NORMS)
    assert found == linears(opened.family) and len({*found}) == len(found)


@torch.no_grad()
def test_blocks_chain_and_each_step_shares_an_input(opened: Opened) -> None:
    """The members of a step see one input, whose rows have weights; a norm is seen before it scales. Those of
    a mixture see some rows of its own.
    """
    family, hidden = opened.family, None
    (batch,) = family.batches(opened.model.samples, len(opened.model.samples))
    for block in family.blocks:
        module = load_block(block, opened.source, CPU)
        places = {path: seen_at(module, path) for path in paths(block)}
        asked = [*dict.fromkeys(places.values())]
        seen, result = inputs_of(
            module, asked, partial(run_block, block, module, hidden, batch, CPU), stop=False
        )
        assert result is not None and len(seen) == len(asked)
        given = dict(zip(asked, seen, strict=True))
        for step in block.steps:
            value = given[places[step[0]]]
            assert all(torch.equal(value, given[places[path]]) for path in step)
            weights = block.row_weights(step, batch, (value.shape[0], value.shape[1]))
            assert weights.dtype == torch.float32 and weights.shape == value.shape[:2]
            assert 0 < float(weights.max()) <= 1 and float(weights.min()) >= 0
            if isinstance(module.get_submodule(step[0]), NORMS):
                squares = value.square().mean(-1)[weights > 0]
                torch.testing.assert_close(squares, torch.ones_like(squares), rtol=0.05, atol=0.05)
        hidden = result
    assert hidden is not None and bool(torch.isfinite(hidden).all())


@torch.no_grad()
def test_later_keeps_what_blocks_read(opened: Opened) -> None:
    family, samples = opened.family, opened.model.samples
    (batch,) = family.batches(samples, len(samples))
    later = family.later(batch)
    assert later.keys() <= batch.keys() - {"input_ids", "pixel_values"}
    hidden = {}
    for name, given in (("whole", batch), ("later", later)):
        state: Tensor | None = None
        for block in family.blocks:
            module = load_block(block, opened.source, CPU)
            state = run_block(block, module, state, batch if state is None else given, CPU)
        assert state is not None
        hidden[name] = family.output(state, given)
    assert torch.equal(hidden["whole"], hidden["later"])


def test_outputs_are_rows_of_samples(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample's rows do not depend on the others, nor on how many are in a batch."""
    family, samples = opened.family, opened.model.samples
    found = reference.outputs(family, opened.source, samples, CPU)
    assert found.dtype == np.float32 and found.ndim == 2 and np.isfinite(found).all()
    assert len(found) == sum(rows(family, sample) for sample in samples)
    alone = np.concatenate([reference.outputs(family, opened.source, [each], CPU) for each in samples])
    monkeypatch.setattr(reference, "TOKENS", 1)
    assert {len(next(iter(batch.values()))) for batch in reference.batches(family, samples)} == {1}
    bounded = reference.outputs(family, opened.source, samples, CPU)
    np.testing.assert_allclose(bounded, found, rtol=0, atol=1e-4 * float(np.abs(found).max()))
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-4)
    counts = [len(next(iter(batch.values()))) for batch in family.batches(samples, 3)]
    assert counts == [min(3, len(samples) - start) for start in range(0, len(samples), 3)]


def test_what_fits_stays_and_what_does_not_is_cut(opened: Opened) -> None:
    family: Any = opened.family
    for sample in opened.model.samples:
        assert family.truncate(sample) == sample
    for sample in opened.model.long:
        cut = family.truncate(sample)
        assert cut != sample and family.truncate(cut) == cut
        (batch,) = family.batches([cut], 1)
        assert 0 < batch["input_ids"].shape[1] <= family.max_length
        assert rows(family, cut) > 0


def test_samples_of_another_kind_are_sentences(opened: Opened) -> None:
    wrong: Sample = "a text" if opened.family.images is not None else MODELS["vit"].samples[0]
    with pytest.raises(InputError, match=r"found the (text|picture) .*, expected a (text|picture)$"):
        opened.family.truncate(wrong)


def test_pictures_are_of_the_size_that_they_are_said_to_be(opened: Opened) -> None:
    images = opened.family.images
    (batch,) = opened.family.batches(opened.model.samples[:2], 2)
    assert ("pixel_values" in batch) == (images is not None)
    if images is not None:
        assert (
            batch["pixel_values"].shape[:2] == (2, 3) and batch["pixel_values"][0].numel() == images.numbers
        )
        stem = opened.family.blocks[0]
        hidden = run_block(stem, load_block(stem, opened.source, CPU), None, batch, CPU)
        assert hidden.shape[:2] == (2, images.tokens)


def test_label_texts_are_embedded_where_outputs_are(opened: Opened) -> None:
    zero_shot = opened.family.zero_shot
    if zero_shot is None:
        assert towers(opened.family) == [opened.family]
        return
    embedded = reference.outputs(zero_shot.text_tower, opened.source, ["a cat", "a dog"], CPU)
    found = reference.outputs(opened.family, opened.source, opened.model.samples[:1], CPU)
    assert embedded.shape == (2, found.shape[1]) and not np.allclose(embedded[0], embedded[1])
    assert all(opened.source.shape(name) == shape for name, shape in of_cosines(opened.family).items())


def test_formats_and_runtimes_are_known(opened: Opened) -> None:
    exports, known = opened.family.exports, registry()
    assert exports and exports.keys() <= known.formats.keys()
    for name, export in exports.items():
        assert export.runtimes and {*export.runtimes} <= known.runtimes.keys()
        held = {GRIDS[grid].file_type for grid in known.formats[name].grids}
        assert export.grids is None or export.grids <= held
        export.require()


def test_what_runtimes_compute_is_near_the_family(opened: Opened) -> None:
    """Their approximations change no shape, and no output by much."""
    expected = reference.outputs(opened.family, opened.source, opened.model.samples, CPU)
    for export in opened.family.exports.values():
        computed = export.computed()
        assert [block.name for block in computed.blocks] == [block.name for block in opened.family.blocks]
        assert tensors_of(computed) == tensors_of(opened.family)
        run = partial(reference.outputs, computed, opened.source, device=CPU)
        found = export.as_read(run, Path())(opened.model.samples)
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_gguf_names_every_tensor_once(opened: Opened) -> None:
    if "gguf" not in opened.family.exports:
        with pytest.raises(InputError, match="which no runtime reads as GGUF, expected onnx"):
            spec_of(opened.family)
        return
    spec, names = spec_of(opened.family), set(opened.source.names())
    assert not spec.left_out & spec.names.keys()
    assert {*spec.names, *spec.left_out} == names
    assert not spec.members.keys() & spec.constants.keys()
    # Of several that are one there, each is a linear of another expert of a mixture.
    together = [members for members in spec.members.values() if len(members) > 1]
    assert sorted(together) == sorted(alike(opened.family).values())
    for members in together:
        assert len({re.sub(r"experts\.\d+", "", name) for name in members}) == 1
        assert len({tuple(opened.source.shape(name)) for name in members}) == 1
    assert {*spec.orders, *spec.offsets, *spec.factors} <= spec.names.keys()


def test_onnx_models_hold_every_tensor(opened: Opened) -> None:
    """Together the parts have all tensors, each in its shape, and inputs have examples."""
    held: set[str] = set()
    for spec in specs_of(opened.family).values():
        held |= {*spec.tensors()}
        for part in spec.parts:
            for path, value in part.build().named_parameters():
                assert tuple(value.shape) == tuple(opened.source.shape(f"{part.prefix}{path}"))
        assert [*spec.inputs] == [*spec.example]
        for name, axes in spec.inputs.items():
            # The exporter takes an axis of length 0 or 1 for a constant.
            assert all(spec.example[name].shape[axis] > 1 for axis in axes)
    assert held == set(opened.source.names())


def test_sizes_are_those_of_the_written_file(opened: Opened, tmp_path: Path) -> None:
    if "gguf" not in opened.family.exports:
        return
    grid, names = GRIDS["Q8_0"], {*linears(opened.family)}
    tensors = {name: opened.source.load(name).float() for name in opened.source.names()}
    half = {*opened.family.embeddings, *halves(opened.family)}
    held = {
        name: nearest(value, grid)
        if name in names and grid.fits(tuple(value.shape))
        else value.half()
        if name in half
        else value
        for name, value in tensors.items()
    }
    packed_writer.write(tmp_path / "packed", held, an_index(opened.family.name), opened.directory)
    stored = Packed(tmp_path / "packed")
    family = open_family(stored.directory)
    (tmp_path / "gguf").mkdir()
    path = Gguf().write(stored, family, tmp_path / "gguf")
    planned = {
        name: PlannedTensor(stored.shape(name), stored.grids.get(name, stored.load(name).dtype))
        for name in stored.names()
    }
    (found,) = Gguf().sizes(planned, family, stored.index).values()
    assert sum(found.values()) == pytest.approx(path.stat().st_size, rel=0.05)
    family.exports["gguf"].require_model(path)
    written = Gguf().open(path, family)
    assert {entry.name for entry in written.tensors()} == set(stored.names()) - Gguf().left_out(family)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gpu_gives_the_processors_outputs(opened: Opened, device: str) -> None:
    family, source, samples = opened.family, opened.source, opened.model.samples
    expected = reference.outputs(family, source, samples, CPU)
    with a_gpu(device) as gpu:
        found = reference.outputs(family, source, samples, gpu)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    if family.language is not None:
        questions = [sample for sample in samples if isinstance(sample, str)]
        with a_gpu(device) as gpu:
            found_tokens = answers(family, source, questions, 3, gpu)
        assert found_tokens == answers(family, source, questions, 3, CPU)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gpu_sees_the_inputs_of_every_step(opened: Opened, device: str) -> None:
    """Run the family as a calibration does: block by block, with the batch where the block left it."""
    with a_gpu(device) as gpu:
        (batch,) = opened.family.batches(opened.model.samples, len(opened.model.samples))
        hidden: Tensor | None = None
        for block in opened.family.blocks:
            module = load_block(block, opened.source, gpu)
            seen, hidden = inputs_of(
                module, paths(block), partial(run_block, block, module, hidden, batch, gpu), stop=False
            )
            assert hidden is not None
            for value in (*seen, hidden):
                assert value.device.type == "cuda"
            for step in block.steps:
                index = paths(block).index(step[0])
                shape = (seen[index].shape[0], seen[index].shape[1])
                assert block.row_weights(step, batch, shape).device.type == "cpu"

"""ViT, DeiT, DINOv2 and DINOv3: what the blocks compute, ONNX, and the commands on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from converters import open_family
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.processor import load_processor, preprocess
from epmq_export.models.samples import Picture
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.source import Renamed, renamed
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.probes import hard_pictures
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime, open_session
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.command_line.command import Warm
from tests.tiny import vit as tiny_vit
from tests.tiny.image_files import folders
from tests.tiny.onnx_encoders import notes
from tests.tiny.packed_index import an_index

CPU = torch.device("cpu")
PICTURES = hard_pictures()
CLASSES = ["red", "green", "blue"]
# Positions for other pictures than the processor's: more and fewer of them, and pictures that are no squares.
SIZES = [
    ("Dinov2Model", 80, (32, 32)),
    ("Dinov2Model", 32, (48, 48)),
    ("Dinov2Model", 64, (32, 56)),
    ("Dinov2Model", 32, (16, 64)),
    ("Dinov2Model", 32, (39, 33)),
    ("Dinov2WithRegistersModel", 80, (32, 32)),
    ("Dinov2WithRegistersModel", 32, (39, 33)),
    ("ViTModel", 64, (32, 32)),
    ("DeiTModel", 32, (40, 48)),
    ("DINOv3ViTModel", 64, (39, 56)),
]


def opened(directory: Path) -> tuple[Family, Renamed]:
    family = open_family(directory)
    return family, renamed(open_checkpoint(str(directory)), family.canonical)


@torch.no_grad()
def transformers_outputs(
    directory: Path, architecture: str, pictures: list[Picture]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The class tokens and the means of the patches after the last norm, by the library's own model, loaded
    as the library loads it.
    """
    model: Any = tiny_vit.MODELS[architecture].from_pretrained(directory).eval()
    if not architecture.endswith("Model"):
        model = getattr(model, model.base_model_prefix)
    settings = {"interpolate_pos_encoding": True} if architecture.startswith(("ViT", "DeiT")) else {}
    hidden = model(
        torch.from_numpy(preprocess(load_processor(directory), pictures)), **settings
    ).last_hidden_state
    return hidden[:, 0].numpy(), hidden[:, before(architecture) :].mean(1).numpy()


def before(architecture: str) -> int:
    """Return how many tokens stand before the patches."""
    if architecture.startswith("DeiT"):
        return 2
    return 5 if "Registers" in architecture or architecture.startswith("DINO") else 1


def reads_patches(architecture: str) -> bool:
    return architecture.startswith("Dinov2") and architecture.endswith("Classification")


def pack(directory: Path, grid: str = "Q4_0") -> tuple[Packed, Family]:
    """Linears on a grid, rounded to the nearest, the rest as it is."""
    family, source = opened(directory)
    matrices = {
        f"{block.prefix}{path}.weight" for block in family.blocks for step in block.steps for path in step
    }
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for name in source.names():
        value = source.load(name)
        tensors[name] = (
            PackedTensor(GRIDS[grid], *GRIDS[grid].quantise(value))
            if name in matrices and value.ndim == 2
            else value
        )
    place = directory.with_name(f"{directory.name}-packed")
    packed_writer.write(place, tensors, an_index(family.name), directory)
    return Packed(place), open_family(place)


@pytest.mark.parametrize("old", [False, True], ids=["transformers 5", "transformers 4"])
@pytest.mark.parametrize("architecture", tiny_vit.MODELS)
def test_outputs_are_those_of_transformers(tmp_path: Path, architecture: str, old: bool) -> None:
    directory = tiny_vit.vit(tmp_path / "model", architecture, old=old)
    family, source = opened(directory)
    first, mean = transformers_outputs(directory, architecture, PICTURES)
    expected = np.concatenate((first, mean), 1) if reads_patches(architecture) else first
    np.testing.assert_allclose(reference.outputs(family, source, PICTURES, CPU), expected, rtol=0, atol=1e-5)
    # All that the blocks hold and nothing beyond: no pooler, mask token or classifier.
    assert (
        sorted(f"{block.prefix}{path}" for block in family.blocks for path in block.build().state_dict())
        == source.names()
    )


@pytest.mark.parametrize(("architecture", "side", "crop"), SIZES)
def test_positions_are_interpolated_as_transformers_does(
    tmp_path: Path, architecture: str, side: int, crop: tuple[int, int]
) -> None:
    directory = tiny_vit.vit(tmp_path / "model", architecture, crop=crop, image_size=side)
    expected, _ = transformers_outputs(directory, architecture, PICTURES)
    np.testing.assert_allclose(
        reference.outputs(*opened(directory), PICTURES, CPU), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("ViTModel", {"qkv_bias": False}),
        ("DINOv3ViTModel", {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False}),
    ],
)
def test_linears_without_biases_and_with_a_gate(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    directory = tiny_vit.vit(tmp_path / "model", architecture, **settings)
    expected, _ = transformers_outputs(directory, architecture, PICTURES)
    np.testing.assert_allclose(
        reference.outputs(*opened(directory), PICTURES, CPU), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("said", [True, False], ids=["said", "left to its class"])
def test_dinov3_gets_its_pictures_as_the_library_makes_them(said: bool, tmp_path: Path) -> None:
    """The library's class needs torchvision, which resizes by this operator of torch: within a level."""
    place = tiny_vit.vit(tmp_path / "model", "DINOv3ViTModel") / "preprocessor_config.json"
    numbers = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    settings = json.loads(place.read_text()) | numbers
    place.write_text(
        json.dumps({key: value for key, value in settings.items() if said or key not in numbers})
    )
    mean, deviation = (torch.tensor(each)[:, None, None] for each in numbers.values())
    side = (tiny_vit.SIDE, tiny_vit.SIDE)
    for picture, found in zip(PICTURES, preprocess(load_processor(place.parent), PICTURES), strict=True):
        pixels = torch.from_numpy(picture.pixels().copy()).permute(2, 0, 1)[None] / 255
        resized = torch.nn.functional.interpolate(pixels, side, mode="bilinear", antialias=True)[0]
        np.testing.assert_allclose((torch.from_numpy(found) * deviation + mean), resized, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("architecture", "side", "crop"),
    [
        ("ViTForImageClassification", 32, (32, 32)),
        ("DeiTForImageClassificationWithTeacher", 32, (32, 32)),
        ("DeiTModel", 32, (40, 48)),
        ("Dinov2Model", 80, (32, 32)),
        ("Dinov2WithRegistersForImageClassification", 80, (32, 56)),
        ("DINOv3ViTModel", 32, (32, 56)),
    ],
)
def test_onnx_is_fused_and_computes_what_pytorch_does(
    tmp_path: Path, architecture: str, side: int, crop: tuple[int, int]
) -> None:
    stored, family = pack(tiny_vit.vit(tmp_path / "model", architecture, image_size=side, crop=crop))
    (tmp_path / "onnx").mkdir()
    path = OnnxQdq().write(stored, family, tmp_path / "onnx")
    assert path == tmp_path / "onnx" / "onnx" / "model_q4.onnx"
    assert notes(path, family) == {"linears": 6 * tiny_vit.LAYERS, "fused": 6 * tiny_vit.LAYERS}
    expected = reference.outputs(family, stored, PICTURES, CPU)
    np.testing.assert_allclose(OnnxRuntime().outputs(path, PICTURES, exact=True), expected, rtol=0, atol=1e-5)
    for check in (
        check_codes(OnnxQdq().open(path, family), stored, OnnxQdq().left_out(family), [OnnxRuntime()]),
        check_metadata(OnnxQdq().open(path, family), stored),
        check_graph(OnnxQdq().open(path, family), stored, family.exports["onnx"], OnnxRuntime(), 1e-5),
    ):
        assert not check.broken, check

    session = open_session(path, exact=True)
    (asked,) = session.get_inputs()
    assert (asked.name, asked.shape) == ("pixel_values", ["batch_size", 3, *crop])
    outputs = [
        "last_hidden_state",
        "pooler_output",
        *(["image_embeds"] if reads_patches(architecture) else []),
    ]
    assert [value.name for value in session.get_outputs()] == outputs
    hidden, pooled, *_ = session.run(
        None, {"pixel_values": preprocess(load_processor(tmp_path / "model"), PICTURES)}
    )
    assert hidden.shape == (
        len(PICTURES),
        before(architecture) + (crop[0] // tiny_vit.PATCH) * (crop[1] // tiny_vit.PATCH),
        tiny_vit.WIDTH,
    )
    np.testing.assert_array_equal(pooled, hidden[:, 0])


def test_of_the_last_layer_only_keys_and_values_count_in_full(tmp_path: Path) -> None:
    family = open_family(tiny_vit.vit(tmp_path / "model", "DeiTModel"))
    full, class_only = torch.ones(2, 3), torch.tensor([[1.0, 0.01, 0.01]] * 2)
    stem, first, last, head = family.blocks
    assert stem.steps == ()
    assert all(torch.equal(first.row_weights(step, {}, (2, 3)), full) for step in first.steps)
    assert [torch.equal(last.row_weights(step, {}, (2, 3)), full) for step in last.steps] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert all(torch.equal(last.row_weights(step, {}, (2, 3)), class_only) for step in last.steps[2:])
    assert torch.equal(head.row_weights(("layernorm",), {}, (2, 3)), class_only)
    # The classifier of DINOv2 reads all patches.
    both = open_family(tiny_vit.vit(tmp_path / "both", "Dinov2ForImageClassification"))
    assert all(
        torch.equal(block.row_weights(step, {}, (2, 3)), full)
        for block in both.blocks
        for step in block.steps
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"use_swiglu_ffn": True}, "found use_swiglu_ffn True, expected False: family dinov2 has no other"),
        ({"hidden_act": "relu"}, "found hidden_act 'relu', expected 'gelu': family dinov2 has no other"),
        ({"num_channels": 1}, "found num_channels 1, expected 3: family dinov2 has no other"),
        ({"image_size": [32, 64]}, r"found image_size \[32, 64\], expected the side of a square"),
        ({"patch_size": 40}, "found image_size 32, expected at least patch_size, which is 40"),
        ({"hidden_size": "wide"}, "found no config of a dinov2 .*hidden_size"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    directory = tiny_vit.vit(tmp_path / "model", "Dinov2Model")
    place = directory / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **settings}))
    with pytest.raises(InputError, match=f"config.json: {sentence}"):
        open_family(directory)


def test_sizes_as_lists(tmp_path: Path) -> None:
    directory = tiny_vit.vit(tmp_path / "model", "ViTModel", image_size=[32, 32], patch_size=[8, 8])
    expected, _ = transformers_outputs(tiny_vit.vit(tmp_path / "plain", "ViTModel"), "ViTModel", PICTURES)
    np.testing.assert_allclose(
        reference.outputs(*opened(directory), PICTURES, CPU), expected, rtol=0, atol=1e-5
    )


def test_processors_that_are_refused(tmp_path: Path) -> None:
    directory = tiny_vit.vit(tmp_path / "model", "Dinov2Model")
    place = directory / "preprocessor_config.json"
    settings = json.loads(place.read_text())
    place.write_text(json.dumps({**settings, "do_center_crop": False}))
    with pytest.raises(
        InputError,
        match=(
            r"preprocessor_config.json: found 36 x 54 pixels of a wide picture and 54 x 36 of a tall one, "
            r"expected one size"
        ),
    ):
        open_family(directory)
    place.write_text(json.dumps({**settings, "crop_size": {"height": 4, "width": 32}}))
    with pytest.raises(
        InputError,
        match=r"preprocessor_config.json: found pictures of 4 x 32 pixels, expected at least a patch, 8 x 8",
    ):
        open_family(directory)
    place.unlink()
    with pytest.raises(InputError, match=r"its image processor \(preprocessor_config.json\) cannot be used"):
        open_family(directory)


def test_there_is_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="found the family vit, which no runtime reads as GGUF, expected onnx"
    ):
        spec_of(open_family(tiny_vit.vit(tmp_path / "model")))


def project(folder: Path, architecture: str) -> Path:
    """Two experts, each with pictures and a head fitted on its own outputs, the second under old names."""
    base = tiny_vit.vit(folder / "base", architecture)
    tasks: dict[str, Any] = {}
    for seed in (1, 2):
        expert = tiny_vit.expert(
            folder / f"expert{seed}", base, seed, old=tiny_vit.kind_of(architecture) if seed == 2 else None
        )
        pixels, labels = tiny_vit.pictures(60, seed)
        np.savez(
            folder / f"{seed}.npz",
            images=pixels[:24],
            labels=labels[:24],
            x_test=pixels[24:],
            y_test=labels[24:],
        )
        samples = [Picture(f"{seed}[{i}]", "", lambda each=each: each) for i, each in enumerate(pixels[:24])]
        outputs = torch.from_numpy(reference.outputs(*opened(expert), samples, CPU))
        offset = torch.cat((outputs, torch.ones(24, 1)), 1)
        fitted = torch.linalg.lstsq(
            offset.T @ offset + torch.eye(offset.shape[1]), offset.T @ torch.eye(3)[labels[:24]]
        ).solution.T
        save_file(
            {"weight": fitted[:, :-1].contiguous(), "bias": fitted[:, -1].contiguous()},
            folder / f"{seed}.safetensors",
        )
        tasks[f"task{seed}"] = {
            "expert": f"./expert{seed}",
            "calibration": {"path": f"{seed}.npz", "images": "images", "labels": "labels"},
            "evaluation": {"path": f"{seed}.npz", "images": "x_test", "labels": "y_test"},
            "labels": CLASSES,
            "head": f"{seed}.safetensors",
        }
    recipe = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 16}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_a_run_from_experts_to_a_verified_file(tmp_path: Path, epmq: Warm) -> None:
    recipe = project(tmp_path, "Dinov2Model")
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not (tmp_path / "out" / "gguf").exists()
    (file,) = report["files"]
    assert file["notes"] == {"linears": 12, "fused": 12}
    assert file["checks"]["graph"]["value"] < 1e-5
    # The heads are read, and by the features that they were fitted on: by another row, or without their
    # biases, a third would be right.
    assert report["scores"]["experts"]["average"] > 0.9
    assert report["scores"]["onnx in onnxruntime"]["average"] > 0.8
    stored = Packed(tmp_path / "out" / "packed")
    assert set(stored.grids) == {
        name for name in stored.names() if ".layer." in name and len(stored.shape(name)) == 2
    }
    # What is not calibrated is the merge's, plain.
    for name in (
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.position_embeddings",
        "embeddings.cls_token",
        "encoder.layer.0.layer_scale1.lambda1",
    ):
        assert stored.load(name).dtype == torch.float32
        assert torch.equal(stored.load(name), opened(tmp_path / "base")[1].load(name))
    assert "encoder.layer.1.norm2.weight" in stored.names()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"export": {"formats": ["gguf"]}},
            "export.formats: found gguf, which family vit cannot be written in, expected onnx",
        ),
        (
            {"head": None},
            "tasks.task1.head: found nothing, expected a linear head: family vit embeds no label texts",
        ),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, epmq: Warm, change: dict[str, Any], sentence: str) -> None:
    recipe = project(tmp_path, "ViTModel")
    content = {**yaml.safe_load(recipe.read_text()), **change}
    if content.pop("head", ...) is None:
        del content["tasks"]["task1"]["head"]
    recipe.write_text(yaml.safe_dump(content))
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 2
    assert result.error.endswith(sentence)
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_left_out_are_told_once(tmp_path: Path, epmq: Warm) -> None:
    base = tiny_vit.vit(tmp_path / "base")
    tiny_vit.expert(tmp_path / "expert", base, 1)
    (folders(tmp_path / "pets", cat=4) / "cat" / "no.png").write_bytes(b"no picture")
    folders(tmp_path / "others", cat=2)
    task = {"expert": "./expert", "calibration": "pets", "evaluation": "others"}
    recipe = {"base_model": "./base", "tasks": {"pets": task}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = epmq("calibrate", "recipe.yaml", "-o", "out", folder=tmp_path)
    assert result.code == 0 and result.stderr.count("cannot be decoded and are left out") == 1, result.stderr


def test_a_format_for_a_calibration_is_named_once(tmp_path: Path, epmq: Warm) -> None:
    recipe = project(tmp_path, "ViTModel")
    result = epmq("calibrate", recipe, "-o", "out", "--format", "gguf", folder=tmp_path)
    assert result.error.endswith("cannot be written in it, expected onnx or safetensors")

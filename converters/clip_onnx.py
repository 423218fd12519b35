"""CLIP as modules, for export: the towers' own blocks in a row, under their canonical names.

They run what the blocks run, so an exported graph can only differ from the reference by the exporter's doing.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from epmq_export.family import Batch, Block, TensorSource


class _Blocks(nn.Module):
    """Modules of blocks, each parameter under its canonical name."""

    def __init__(self, source: TensorSource, *towers: Sequence[Block]) -> None:
        super().__init__()
        for block in (block for tower in towers for block in tower):
            _place(self, block.prefix.removesuffix("."), block.build())
        self.load_state_dict({name: source.load(name).float() for name in self.state_dict()}, assign=True)
        self.eval()

    def through(self, blocks: Sequence[Block], batch: Batch) -> tuple[Tensor, Tensor]:
        """The hidden state before the last block, which reads the features off it, and those, [batch, width]."""
        hidden: Tensor | None = None
        last = hidden
        for block in blocks:
            last = hidden
            hidden = block.run(self.get_submodule(block.prefix.removesuffix(".")), hidden, batch)
        assert hidden is not None and last is not None  # a tower has a stem and a head
        return last, hidden[:, 0]


class VisionTower(_Blocks):
    """pixel_values float32 [batch, 3, side, side] -> image_embeds [batch, projection_dim], last_hidden_state [batch, patches + 1, width]."""

    def __init__(self, blocks: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, blocks)
        self._tower = tuple(blocks)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        hidden, features = self.through(self._tower, {"pixel_values": pixel_values})
        return features, hidden


class TextTower(_Blocks):
    """input_ids int64 [batch, sequence] -> text_embeds [batch, projection_dim], last_hidden_state [batch, sequence, width]."""

    def __init__(self, blocks: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, blocks)
        self._tower = tuple(blocks)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, features = self.through(self._tower, {"input_ids": input_ids})
        return features, hidden


class Joint(_Blocks):
    """Both -> logits_per_image [images, texts], logits_per_text [texts, images], text_embeds and image_embeds, of length 1 as CLIPModel has them."""

    def __init__(self, vision: Sequence[Block], text: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, vision, text)
        self._vision, self._text = tuple(vision), tuple(text)
        self.logit_scale = nn.Parameter(source.load("logit_scale").float(), requires_grad=False)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, images = self.through(self._vision, {"pixel_values": pixel_values})
        _, texts = self.through(self._text, {"input_ids": input_ids})
        images, texts = normalize(images, dim=-1), normalize(texts, dim=-1)
        logits = self.logit_scale.exp() * images @ texts.T
        return logits, logits.T, texts, images


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Under a dotted name; where something is already, as the towers are when their heads come, the children join its children."""
    *path, last = name.split(".") if name else [""]
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if last and not hasattr(root, last):
        root.add_module(last, module)
        return
    for child, each in module.named_children():
        _place(root.get_submodule(last), child, each)

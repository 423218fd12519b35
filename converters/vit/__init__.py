"""Vision transformers with a class token: ViT, DeiT, DINOv2 and DINOv3."""

from converters.shared.about import About

ABOUT = (
    About(
        models="ViT, DeiT without a distillation token",
        kinds=("vit",),
        calibrated="linears and norms of the layers, the last norm",
        kept="patch projection, tokens, positions, in F32",
        output="the class token after the last norm; of classifiers, their scores",
    ),
    About(
        models="DeiT with a distillation token",
        kinds=("deit",),
        output="the same, and not the distillation token",
    ),
    About(
        models="DINOv2, without registers and with, with a plain feed-forward (all sizes but giant)",
        kinds=("dinov2", "dinov2_with_registers"),
        kept="the same, and LayerScale",
        output="the same ¹",
    ),
    About(
        models="DINOv3 (ViT, all sizes)",
        kinds=("dinov3_vit",),
        kept="patch projection, tokens and registers, LayerScale, in F32",
        output="the class token after the last norm",
    ),
)

"""CLIP: the image tower, which experts are fine-tuned in, beside the text tower, which stays the base's."""

from converters.shared.about import About

FROZEN = ("text_model.*", "text_projection.*", "visual_projection.*", "logit_scale")

ABOUT = (
    About(
        models="CLIP's image tower",
        kinds=("clip",),
        calibrated="linears and norms of its layers, the norms before and after them",
        kept="patch projection, class token, positions; the text tower and both projections are the base's",
        output="the projected class token",
    ),
)

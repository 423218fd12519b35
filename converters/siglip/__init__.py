"""SigLIP: the image tower, which experts are fine-tuned in, beside the text tower, which stays the base's."""

from converters.shared.about import About

FROZEN = ("text_model.*", "logit_scale", "logit_bias")

ABOUT = (
    About(
        models="The image tower of SigLIP, and of SigLIP 2 for pictures of one size",
        kinds=("siglip",),
        calibrated="linears and norms of its layers and of the head that pools them, the norm between them",
        kept="patch projection, positions, the head's probe and its queries, keys and values, in F32; the "
        "text tower is the base's",
        output="the pooled picture",
    ),
)

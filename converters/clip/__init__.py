"""CLIP: the image tower, which experts are fine-tuned in, beside the text tower, which stays the base's."""

FROZEN = ("text_model.*", "text_projection.*", "visual_projection.*", "logit_scale")

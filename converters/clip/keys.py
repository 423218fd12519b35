"""The keys of CLIP's config.json, those of its towers among them, by what they are to a merge."""

from converters.shared.keys import Keys, names
from converters.shared.same_processor import require_same_processor

KEYS = Keys(
    # The token that ends a text is the one that its embedding is read off.
    computes=names("hidden_act layer_norm_eps num_attention_heads eos_token_id"),
    tensors=names(
        "hidden_size intermediate_size max_position_embeddings num_hidden_layers vocab_size image_size "
        "patch_size num_channels projection_dim tie_word_embeddings"
    ),
    # What older libraries wrote of the towers a second time is read into the first by the library itself.
    describes=names(
        "is_encoder_decoder bos_token_id logit_scale_init_value text_config_dict vision_config_dict dropout"
    ),
    beside=(require_same_processor,),
    alone={"clip_vision_model": "vision_config", "clip_text_model": "text_config"},
)

"""The keys of SigLIP's config.json, those of its towers among them, by what they are to a merge."""

from converters.shared.keys import Keys, names
from converters.shared.same_processor import require_same_processor

KEYS = Keys(
    computes=names("hidden_act layer_norm_eps num_attention_heads"),
    tensors=names(
        "hidden_size intermediate_size max_position_embeddings num_hidden_layers vocab_size image_size "
        "patch_size num_channels projection_size vision_use_head tie_word_embeddings"
    ),
    # A text is read at its last place, whatever token stands there, and padded as its tokenizer says.
    describes=names("is_encoder_decoder bos_token_id eos_token_id text_config_dict vision_config_dict"),
    beside=(require_same_processor,),
    alone={"siglip_vision_model": "vision_config", "siglip_text_model": "text_config"},
)

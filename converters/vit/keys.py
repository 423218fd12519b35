"""The keys of the config.json of ViT, DeiT, DINOv2 and DINOv3 by what they are to a merge."""

from converters.shared.keys import Keys, names
from converters.shared.same_processor import require_same_processor

KEYS = Keys(
    computes=names("hidden_act layer_norm_eps num_attention_heads use_swiglu_ffn rope_theta"),
    tensors=names(
        "hidden_size intermediate_size num_hidden_layers image_size patch_size num_channels qkv_bias "
        "mlp_ratio use_mask_token tie_word_embeddings query_bias key_bias value_bias proj_bias mlp_bias "
        "use_gated_mlp num_register_tokens"
    ),
    # Poolers, decoders of masked pictures, and what a backbone gives out are no part of the exported model.
    # DINOv2's scales are tensors, and layerscale_value is where their training began. DINOv3 moves positions
    # at random while it is trained.
    describes=names(
        "is_encoder_decoder encoder_stride pooler_act pooler_output_size layerscale_value apply_layernorm "
        "out_features out_indices reshape_hidden_states stage_names pos_embed_shift pos_embed_jitter "
        "pos_embed_rescale"
    ),
    beside=(require_same_processor,),
)

"""The keys of the decoders' config.json by what they are to a merge."""

from converters.shared.keys import Keys, names

KEYS = Keys(
    computes=names(
        "hidden_act hidden_activation rms_norm_eps num_attention_heads num_key_value_heads head_dim "
        "attention_bias mlp_bias rope_parameters layer_types no_rope_layers sliding_window "
        "attention_multiplier embedding_multiplier logits_scaling residual_multiplier "
        "query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping use_bidirectional_attention "
        "num_experts_per_tok norm_topk_prob decoder_sparse_step mlp_only_layers clip_qkv"
    ),
    tensors=names(
        "hidden_size intermediate_size num_hidden_layers vocab_size tie_word_embeddings num_experts "
        "num_local_experts moe_intermediate_size"
    ),
    # An answer ends there.
    kept=names("eos_token_id"),
    # What these decide stands in layer_types, no_rope_layers and sliding_window when the library has read
    # them, and what max_position_embeddings may decide among the rope_parameters.
    describes=names(
        "is_encoder_decoder bos_token_id max_position_embeddings use_sliding_window max_window_layers "
        "original_max_position_embeddings embd_pdrop resid_pdrop "
        "sliding_window_pattern _sliding_window_pattern no_rope_layer_interval cache_implementation "
        "unsloth_fixed unsloth_version output_router_logits router_aux_loss_coef router_jitter_noise"
    ),
    defaults={"attention_bias": False, "mlp_bias": False},
    # A GGUF file of Mistral says that it is Llama's.
    alike=frozenset({"llama", "mistral"}),
)

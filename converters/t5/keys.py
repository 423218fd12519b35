"""The keys of T5's config.json by what they are to a merge."""

from converters.shared.keys import Keys, names

KEYS = Keys(
    # The outputs' scale is what is left of `tie_word_embeddings` when the library has read it.
    computes=names(
        "feed_forward_proj dense_act_fn is_gated_act d_kv num_heads layer_norm_epsilon scale_decoder_outputs "
        "relative_attention_num_buckets relative_attention_max_distance decoder_start_token_id "
        "is_encoder_decoder"
    ),
    tensors=names("d_ff d_model num_layers num_decoder_layers vocab_size tie_word_embeddings"),
    describes=names("bos_token_id eos_token_id is_decoder n_positions"),
    defaults={"decoder_start_token_id": 0},
)

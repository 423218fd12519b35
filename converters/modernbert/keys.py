"""The keys of the config.json of ModernBERT by what they are to a merge."""

from converters.bert.same_sentence import require_same_sentence
from converters.shared.keys import Keys, names

KEYS = Keys(
    computes=names(
        "hidden_activation norm_eps num_attention_heads layer_types local_attention rope_parameters "
        "classifier_pooling classifier_bias classifier_activation"
    ),
    # Whether an encoder has biases its tensors say; those of a classifier's head are no part of it.
    tensors=names(
        "vocab_size hidden_size intermediate_size num_hidden_layers norm_bias attention_bias mlp_bias "
        "tie_word_embeddings"
    ),
    # What begins or ends a text is the tokenizer's. There is no table of positions. What old configs call the
    # layers' attention and their thetas stands in layer_types and rope_parameters when the library has read
    # it.
    describes=names(
        "is_encoder_decoder max_position_embeddings initializer_cutoff_factor embedding_dropout mlp_dropout "
        "decoder_bias deterministic_flash_attn sparse_prediction sparse_pred_ignore_index bos_token_id "
        "eos_token_id cls_token_id reference_compile repad_logits_with_grad position_embedding_type "
        "layer_norm_eps global_attn_every_n_layers global_rope_theta local_rope_theta"
    ),
    beside=(require_same_sentence,),
)

"""The keys of BERT's config.json by what they are to a merge."""

from converters.bert.same_sentence import require_same_sentence
from converters.shared.keys import Keys, names

KEYS = Keys(
    computes=names(
        "hidden_act layer_norm_eps num_attention_heads position_embedding_type is_decoder add_cross_attention"
    ),
    tensors=names(
        "hidden_size intermediate_size max_position_embeddings num_hidden_layers type_vocab_size vocab_size "
        "tie_word_embeddings"
    ),
    # Poolers are no part of an encoder. Those that begin or end a text are the tokenizer's.
    describes=names(
        "is_encoder_decoder bos_token_id eos_token_id directionality pooler_fc_size "
        "pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type"
    ),
    beside=(require_same_sentence,),
    defaults={"position_embedding_type": "absolute"},
)

"""The keys of the config.json of BERT and its like by what they are to a merge."""

from converters.bert.same_positions import require_same_positions
from converters.bert.same_sentence import require_same_sentence
from converters.shared.keys import Keys, names

KEYS = Keys(
    computes=names(
        "hidden_act activation layer_norm_eps num_attention_heads n_heads position_embedding_type is_decoder "
        "add_cross_attention"
    ),
    tensors=names(
        "hidden_size intermediate_size max_position_embeddings num_hidden_layers type_vocab_size vocab_size "
        "tie_word_embeddings dim hidden_dim n_layers relative_attention_num_buckets"
    ),
    # Poolers are no part of an encoder. Those that begin or end a text are the tokenizer's. DistilBERT's
    # positions are tensors, whatever they were made of.
    describes=names(
        "is_encoder_decoder bos_token_id eos_token_id directionality pooler_fc_size "
        "pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type "
        "sinusoidal_pos_embds dropout qa_dropout seq_classif_dropout"
    ),
    beside=(require_same_sentence, require_same_positions),
    defaults={"position_embedding_type": "absolute"},
)

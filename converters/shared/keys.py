"""The keys of config.json by what they are to a merge. Each family's folder has its own in keys.py.

The roles of keys, and what becomes of one that differs between an expert and the base:

- `computes`: it changes what the model makes of the same weights. It is refused: a merge has one config.
- `kept`: it changes no number, but what is done with them. The merge has the base's, and says so.
- `tensors`: it says what the tensors' own names and shapes say, and these are compared anyway.
- `describes`: it changes nothing that is computed here.

A key of none of these roles is unknown. The tests hold that every key that the library's class has is known,
so an unknown one is read by no model of the library, and the merge is as right without it. It is told.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Role = Literal["computes", "kept", "tensors", "describes", "unknown"]

DESCRIBES = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "drop_path_rate",
        "dropout_rate",
        "dtype",
        "finetuning_task",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_composition",
        "keys_to_ignore_at_inference",
        "label2id",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "quantization_config",
        "return_dict",
        "sentence_transformers",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "use_cache",
    }
)
"""What describes in every family: where a model comes from, what it was trained with, its labels, and what
the library's own pipelines do with it.
"""


_ELSEWHERE = frozenset(
    {
        "activation_function",
        "alibi",
        "attention_multiplier",
        "embedding_multiplier",
        "layer_norm_epsilon",
        "logits_scaling",
        "multi_query",
        "n_head",
        "norm_eps",
        "norm_epsilon",
        "norm_topk_prob",
        "num_experts_per_tok",
        "parallel_attn",
        "partial_rotary_factor",
        "residual_multiplier",
        "rotary_dim",
        "rotary_pct",
        "rope_scaling",
        "rope_theta",
        "use_parallel_residual",
    }
)
"""What computes in models of no family here, which can be merged."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of one family. Those of nested configs have the same roles: the names are enough."""

    computes: frozenset[str]
    tensors: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    describes: frozenset[str] = frozenset()
    defaults: Mapping[str, object] = field(default_factory=dict)
    """The values of keys that a config lacks, where the library's class does not say them itself."""

    alone: Mapping[str, str] = field(default_factory=dict)
    """The part of the base's config that is compared, for an expert of one tower, by its `model_type`."""

    beside: tuple[Callable[[Path, Path, str], list[str]], ...] = ()
    """Comparisons of what else stands beside the weights: functions of the two directories and the expert's
    name, as `require_same_config`.
    """

    alike: frozenset[str] = frozenset()
    """Each `model_type` that computes as the others here do, where both have the same keys."""

    def role(self, key: str) -> Role:
        """Return the role of a dotted key, of a list's item as `layer_types[3]`: that of its first part that
        has one.
        """
        for part in key.split("[")[0].split("."):
            if part in self.computes:
                return "computes"
            if part in self.kept:
                return "kept"
            if part in self.tensors:
                return "tensors"
            if part in self.describes or part in DESCRIBES:
                return "describes"
        return "unknown"


def names(text: str) -> frozenset[str]:
    """Return the names in a text that has them with spaces between them."""
    return frozenset(text.split())


def together(several: Iterable[Keys]) -> Keys:
    """Return the keys of several families as those of one that is not known: a key that computes in one of
    them may compute in it.
    """
    found = [*several]
    kept = frozenset().union(*(keys.kept for keys in found))
    return Keys(
        computes=_ELSEWHERE.union(*(keys.computes for keys in found)) - kept,
        tensors=frozenset().union(*(keys.tensors for keys in found)),
        kept=kept,
        describes=frozenset().union(*(keys.describes for keys in found)),
    )

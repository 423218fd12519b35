"""The file of classifiers' heads beside a model that has no place for them: `classifiers.safetensors`."""

import json
from collections.abc import Mapping, Sequence

from safetensors.torch import save
from torch import Tensor

from epmq_export.models.classifiers import Classifier

CLASSES = "classes"
"""The key of the metadata that names each task's classes in the order of its scores, in JSON."""


def heads_file(heads: Sequence[Classifier], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of the file: the tensors, by TASK.PART, and the names of all classes. The same
    arguments give the same bytes.
    """
    told = {CLASSES: json.dumps({head.task: head.classes for head in heads}, ensure_ascii=False)}
    return save({name: value.contiguous() for name, value in tensors.items()}, told)

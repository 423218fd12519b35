"""The heads that outputs are read by: a task's own, or the base's embeddings of its label texts."""

import torch

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.classifiers import columns_of
from epmq_export.models.family import Family, heads_of
from epmq_export.models.heads import Columns, Head, Reading
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.source import TensorSource


def reading_of(task: Task, family: Family, base: TensorSource, device: torch.device) -> Reading | None:
    """Return how a task reads outputs: by its own columns where the family has the tasks' classifiers, else
    as `head_of` says.
    """
    if heads := heads_of(family):
        return Columns(columns_of(heads)[task.name])
    return head_of(task, family, base, device)


def head_of(task: Task, family: Family, base: TensorSource, device: torch.device) -> Head | None:
    """Return the linear head that the task names, or else CLIP's zero-shot head: each prompt of a class is
    embedded and normalised, and so is their mean.

    It is None for a task without classes. Raises InputError where the file is no head for the task's classes,
    or the family embeds no texts.
    """
    if task.truth is None:
        return None
    if task.head is not None:
        return linear_head(task)
    zero_shot = family.zero_shot
    if zero_shot is None:
        raise InputError(
            f"task {task.name}: family {family.name} embeds no texts, expected a linear head (the task's "
            "key `head`)"
        )
    tower, scale = zero_shot.text_tower, zero_shot.logit_scale
    prompts = [tower.truncate(prompt) for prompts in task.prompts for prompt in prompts]
    embedded = torch.nn.functional.normalize(
        torch.from_numpy(reference.outputs(tower, base, prompts, device)).double(), dim=1
    )
    means = [part.mean(0) for part in torch.split(embedded, [len(prompts) for prompts in task.prompts])]
    weight = torch.nn.functional.normalize(torch.stack(means), dim=1).float()
    return Head(weight) if scale is None else Head(weight, scale=float(base.load(scale).float().exp()))


def linear_head(task: Task) -> Head:
    """Return the head that the task names. Raises InputError where its file is none for the task's
    classes.
    """
    assert task.head is not None
    file = SafetensorsFile(task.head)
    weight, found = file.load("weight").float(), len(task.labels)
    bias = file.load("bias").float() if "bias" in file.names() else torch.zeros(weight.shape[:1])
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(weight) != found:
        shapes = f"weight {list(weight.shape)} and bias {list(bias.shape)}"
        raise InputError(
            f"{task.head}: found {shapes}, expected [{found}, width] and [{found}] for the {found} "
            f"classes of task {task.name}"
        )
    for name, value in (("weight", weight), ("bias", bias)):
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{task.head}: tensor {name} has values that are not finite, so the classes of task "
                f"{task.name} cannot be told apart"
            )
    return Head(weight, bias)

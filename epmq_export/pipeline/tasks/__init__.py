"""The tasks of a recipe with their data read: samples to calibrate on, to refine on, and to judge by."""

from collections.abc import Collection

from epmq_export.data.task import Task
from epmq_export.models.family import Family, heads_of
from epmq_export.pipeline.refinement import lessons_of
from epmq_export.pipeline.requirements import require_kind
from epmq_export.pipeline.tasks.pictures import picture_task
from epmq_export.pipeline.tasks.texts import text_task
from epmq_export.recipe.recipe import Recipe


def load_tasks(recipe: Recipe, family: Family, names: Collection[str] | None = None) -> list[Task]:
    """Read the data of every task, or of those of the names, in the recipe's order: texts, each in the task's
    prompt, or pictures where the family reads those.
    """
    require_kind(recipe, family)
    tasks = [name for name in recipe.require_tasks().tasks if names is None or name in names]
    lessons = lessons_of(recipe, family)
    heads = {head.task: head for head in heads_of(family)}
    if family.images is not None:
        return [picture_task(recipe, name, heads.get(name), lessons) for name in tasks]
    before = "" if family.zero_shot is None else family.zero_shot.prompts.default
    return [text_task(recipe, name, before, family.language, heads.get(name), lessons) for name in tasks]


def prompt_notes(recipe: Recipe, family: Family) -> list[str]:
    """Return the sentence on prompts of the base's library that none of them is the default of, where a task
    says no prompt.
    """
    prompts = None if family.zero_shot is None else family.zero_shot.prompts
    if prompts is None or prompts.default or not prompts.named:
        return []
    if all("prompt" in task.model_fields_set for task in recipe.tasks.values()):
        return []
    named = ", ".join(f"{name} {text!r}" for name, text in prompts.named.items())
    return [
        f"{recipe.base_model}: has the prompts {named} and none of them as the default, so texts stand "
        "behind none; a task's key `prompt` puts them behind one"
    ]

"""Tasks that are wrong in a recipe: each mistake is one sentence with its line."""

from pathlib import Path

import pytest

from tests.hostile.recipes import HEAD, LABELLED, PAIRS, TASK, refusal

WRONG_TASKS = [
    (
        TASK + "    expertt: x",
        "7: tasks.mood.expertt: found an unknown key, expected one of expert, calibration, labels, prompt, "
        "chat, metric, templates, head, evaluation, did you mean 'expert'?",
    ),
    (
        HEAD + "tasks:\n  mood:\n    expert: org/a\n    calibration: data/mod.tsv",
        "6: tasks.mood.calibration: found no file 'data/mod.tsv', expected one, relative to the recipe, "
        "did you mean 'data/mood.tsv'?",
    ),
    (
        HEAD
        + "tasks:\n  mood:\n    expert: org/a\n    calibration:\n      - data/mood.tsv\n      - gone.txt",
        "8: tasks.mood.calibration[1]: found no file 'gone.txt', expected one, relative to the recipe",
    ),
    (
        TASK.replace("org/a\n", "org/c\n"),
        "5: tasks.mood.expert: found 'org/c', expected one of the experts in models, did you mean 'org/b'?",
    ),
    (
        TASK.replace("org/a\n", "org/base\n"),
        "5: tasks.mood.expert: found 'org/base', expected one of the experts in models, did you mean "
        "'org/b'?",
    ),
    (
        TASK.replace("data/mood.tsv", "[]"),
        "6: tasks.mood.calibration: found an empty list, expected at least 1",
    ),
    (
        TASK.replace("data/mood.tsv", "[3]"),
        "6: tasks.mood.calibration[0]: found 3, expected the path of a file or a directory, or a mapping "
        "with path or dataset",
    ),
    (
        TASK.replace("data/mood.tsv", "3"),
        "6: tasks.mood.calibration: found 3, expected the path of a file or a directory, a mapping with "
        "path or dataset, or a list of these",
    ),
    (
        TASK.replace("data/mood.tsv", "{a: b}"),
        "6: tasks.mood.calibration.a: found an unknown key, expected one of path, dataset, config, split, "
        "images, texts, labels",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      pth: data\n      split: train"),
        "7: tasks.mood.calibration.pth: found an unknown key, expected one of path, dataset, config, split, "
        "images, texts, labels, did you mean 'path'?",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      - data/mood.tsv\n      - pth: data"),
        "8: tasks.mood.calibration[1].pth: found an unknown key, expected one of path, dataset, config, "
        "split, images, texts, labels, did you mean 'path'?",
    ),
    (
        TASK.replace("data/mood.tsv", "{}"),
        "6: tasks.mood.calibration: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: , split: train}"),
        "6: tasks.mood.calibration: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "[data, {split: train}]"),
        "6: tasks.mood.calibration[1]: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      path: data\n      dataset: org/d"),
        "8: tasks.mood.calibration.dataset: found it beside path, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      path: gone"),
        "7: tasks.mood.calibration.path: found no file 'gone', expected one, relative to the recipe",
    ),
    (TASK.replace("data/mood.tsv", "{path: 3}"), "6: tasks.mood.calibration.path: found 3, expected a path"),
    (
        TASK.replace("data/mood.tsv", "{path: [data]}"),
        "6: tasks.mood.calibration.path: found a list, expected a path",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: 3}"),
        "6: tasks.mood.calibration.dataset: found 3, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: ./data}"),
        "6: tasks.mood.calibration.dataset: found './data', expected an id of the Hugging Face hub, "
        "org/name, perhaps with @revision",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, split: ' '}"),
        "6: tasks.mood.calibration.split: found empty text, expected a name",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, images: [a]}"),
        "6: tasks.mood.calibration.images: found a list, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: data, config: a}"),
        "6: tasks.mood.calibration.config: found it beside path, expected it left out: only data sets of "
        "the hub have configs",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: data/mood.tsv, split: a}"),
        "6: tasks.mood.calibration.split: found it beside path, expected it left out: a file has no splits",
    ),
    (
        TASK + "    evaluation: {dataset: org/d, labls: a}",
        "7: tasks.mood.evaluation.labls: found an unknown key, expected one of path, dataset, config, "
        "split, images, texts, labels, did you mean 'labels'?",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: []}"),
        "6: tasks.mood.calibration.texts: found an empty list, expected the name of a column or a list of "
        "names",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: 3}"),
        "6: tasks.mood.calibration.texts: found 3, expected the name of a column or a list of names",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: ' '}"),
        "6: tasks.mood.calibration.texts: found empty text, expected a name",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, 3]}"),
        "6: tasks.mood.calibration.texts[1]: found 3, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b, a]}"),
        "6: tasks.mood.calibration.texts: found 'a' twice, expected it once",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, images: a, texts: b}"),
        "6: tasks.mood.calibration.texts: found it beside images, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b, c]}"),
        "4: tasks.mood.prompt: found the prompt '{}', expected text with {a} and {b} and {c}, where the "
        "texts of the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}")
        + "    evaluation: {dataset: org/d, texts: [b, a]}",
        "7: tasks.mood.evaluation.texts: found b and a, expected a and b as in the task's other data: all "
        "are pairs of these",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {c}'",
        "7: tasks.mood.prompt: found the prompt '{a} {c}', expected text with {a} and {b}, where the texts "
        "of the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {b} {}'",
        "7: tasks.mood.prompt: found the prompt '{a} {b} {}', expected text with {a} and {b}, where the "
        "texts of the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: a}") + "    prompt: '{a}'",
        "7: tasks.mood.prompt: found the prompt '{a}', expected text with {} once, where a text of the data "
        "stands",
    ),
    (
        TASK + "    prompt: '{} {}'",
        "7: tasks.mood.prompt: found the prompt '{} {}', expected text with {} once, where a text of the "
        "data stands",
    ),
    (
        PAIRS + "    evaluation: {dataset: org/d, texts: [a, c]}",
        "8: tasks.mood.evaluation.texts: found a, c, expected a, b as in the task's other data: all stand "
        "in one prompt",
    ),
    (
        PAIRS + "    evaluation: data/mood.tsv",
        "8: tasks.mood.evaluation.texts: found nothing, expected a, b as in the task's other data: all "
        "stand in one prompt",
    ),
    (
        PAIRS.replace("{dataset", "[{dataset: org/d, texts: x}, {dataset").replace("]}", "]}]"),
        "6: tasks.mood.calibration[0].texts: found x, expected a, b as in the task's other data: all stand "
        "in one prompt",
    ),
    (
        TASK + "    evaluation: {split: a}",
        "7: tasks.mood.evaluation: found neither path nor dataset, expected one of them",
    ),
    (
        TASK + "    evaluation: [data]",
        "7: tasks.mood.evaluation: found a list, expected the path of a file or a directory, or a mapping "
        "with path or dataset",
    ),
    (
        TASK + "    templates: a photo of a {}.",
        "7: tasks.mood.templates: found 'a photo of a {}.', expected a list",
    ),
    (
        TASK + "    templates: ['a photo of a {}.']",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has templates",
    ),
    (
        TASK + "    head: data/weights.bin",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has a head",
    ),
    (
        LABELLED + "    templates: [a photo]",
        "8: tasks.mood.templates[0]: found the template 'a photo', expected text with {} once, where the "
        "class stands",
    ),
    (
        LABELLED + "    templates: ['{}', '{} and {}']",
        "8: tasks.mood.templates[1]: found the template '{} and {}', expected text with {} once, where the "
        "class stands",
    ),
    (
        LABELLED + "    templates: ['{0}']",
        "8: tasks.mood.templates[0]: found the template '{0}', expected text with {} once, where the class "
        "stands",
    ),
    (LABELLED + "    templates: [3]", "8: tasks.mood.templates[0]: found 3, expected text"),
    (LABELLED + "    head: data", "8: tasks.mood.head: found the directory 'data', expected a file"),
    (
        LABELLED + "    head: data/weight.bin",
        "8: tasks.mood.head: found no file 'data/weight.bin', expected one, relative to the recipe, did you "
        "mean 'data/weights.bin'?",
    ),
    (LABELLED + "    head: [data]", "8: tasks.mood.head: found a list, expected a path"),
    (
        LABELLED + "    head: data/weights.bin\n    templates: ['{}']",
        "8: tasks.mood.head: found it beside templates, expected one of them: templates make a head of "
        "their own",
    ),
    (
        TASK.replace("data/mood.tsv", "x" * 5000),
        f"6: tasks.mood.calibration: found no file '{'x' * 5000}', expected one, relative to the recipe",
    ),
    (
        TASK.replace("mood:", "average:"),
        "4: tasks.average: found a task of this name, expected another: average is the mean of all tasks",
    ),
    (HEAD + "tasks:\n  mood:", "4: tasks.mood: found nothing, expected a mapping"),
    (HEAD + "tasks:\n  mood: {expert: org/a}", "4: tasks.mood.calibration: found nothing, expected this key"),
    (
        TASK + "    labels: [bad, good]",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has labels",
    ),
    (LABELLED + "    labels: [bad]", "8: tasks.mood.labels: found 1 label, expected at least 2"),
    (LABELLED + "    labels: [bad, bad]", "8: tasks.mood.labels: found 'bad' twice, expected it once"),
    (
        LABELLED + "    labels: [so so, so_so]",
        "8: tasks.mood.labels: found the text 'so so' for the labels 'so so' and 'so_so', expected one for "
        "each",
    ),
    (LABELLED + "    labels: [0, 1]", "8: tasks.mood.labels: found the label 0, expected text: quote it"),
    (
        LABELLED + "    labels: {bad: [], good: x}",
        "8: tasks.mood.labels: found an empty list for label 'bad', expected text",
    ),
    (
        LABELLED + "    labels: 3",
        "8: tasks.mood.labels: found 3, expected a list of names, a mapping of names to texts, or the path "
        "of a JSON file",
    ),
    (
        LABELLED + "    labels: data/mods.tsv",
        "8: tasks.mood.labels: found no file 'data/mods.tsv', expected one, relative to the recipe, did you "
        "mean 'data/mood.tsv'?",
    ),
    (
        LABELLED + "    labels: data/numbers.json",
        "8: tasks.mood.labels: found the label 1 in numbers.json, expected text: quote it",
    ),
    (
        LABELLED + "    labels: data/half.json",
        "8: tasks.mood.labels: found '\\ud800' for label 'a' in half.json, expected text",
    ),
    (
        LABELLED + "    labels: data/scalar.json",
        "8: tasks.mood.labels: found 3 in scalar.json, expected a list of names, a mapping of names to "
        "texts, or the path of a JSON file",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), WRONG_TASKS, ids=range(len(WRONG_TASKS)))
def test_tasks_that_are_wrong(folder: Path, content: str, sentence: str) -> None:
    assert refusal(folder, content + "\n") == f"recipe.yaml:{sentence}"


@pytest.mark.parametrize("name", ["broken.json", "weights.bin", "deep.json"])
def test_label_files_that_are_no_json(folder: Path, name: str) -> None:
    start = f"recipe.yaml:8: tasks.mood.labels: found the file {name}, which is not readable as JSON ("
    assert refusal(folder, LABELLED + f"    labels: data/{name}\n").startswith(start)

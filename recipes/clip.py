"""The CLIP tables: one list of the tasks that all files share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wording import quoted


@dataclass(frozen=True)
class Task:
    """A task of FusionBench's checkpoints: its data set on the hub, and how its classes are put into
    words.
    """

    name: str
    """Also the end of the expert's name."""

    dataset: str
    templates: Sequence[str]
    labels: Sequence[str] = ()
    """The words for the classes, in the order of their indices. None where the data set's own names are words
    already.
    """

    config: str | None = None
    test: str = "test"
    images: str = "image"
    truth: str = "label"


DIGITS = [str(digit) for digit in range(10)]
TASKS = (
    Task("sun397", "tanganke/sun397", ["a picture of a place: {}.", "a {} scene.", "this place is a {}."]),
    Task(
        "stanford-cars",
        "tanganke/stanford_cars",
        ["a picture of a {}, a car.", "the car in this picture is a {}.", "a {} parked or on the road."],
    ),
    Task(
        "resisc45",
        "tanganke/resisc45",
        ["an aerial view of {}.", "{} seen from above.", "a satellite picture that shows {}."],
    ),
    Task(
        "eurosat",
        "tanganke/eurosat",
        ["{} seen from a satellite.", "a satellite picture of {}."],
        [
            "fields of annual crops",
            "forest",
            "meadows and shrubs",
            "a highway",
            "an industrial area",
            "pasture",
            "orchards and other permanent crops",
            "a residential area",
            "a river",
            "a sea or lake",
        ],
    ),
    Task(
        "svhn",
        "ufldl-stanford/svhn",
        ['the house number digit "{}".', 'a street sign with the digit "{}".'],
        DIGITS,
        config="cropped_digits",
    ),
    Task(
        "gtsrb",
        "tanganke/gtsrb",
        [
            "a traffic sign: {}.",
            "a close view of the traffic sign for {}.",
            "a German road sign that says {}.",
        ],
        [
            "speed limit 20",
            "speed limit 30",
            "speed limit 50",
            "speed limit 60",
            "speed limit 70",
            "speed limit 80",
            "end of speed limit 80",
            "speed limit 100",
            "speed limit 120",
            "no overtaking",
            "no overtaking for trucks",
            "right of way at the next crossing",
            "priority road",
            "give way",
            "stop",
            "no vehicles at all",
            "no trucks",
            "no entry",
            "danger ahead, an exclamation mark",
            "sharp bend to the left",
            "sharp bend to the right",
            "double bend",
            "bumps in the road",
            "slippery road",
            "road narrows on the right",
            "road works",
            "traffic lights ahead",
            "pedestrians",
            "children crossing",
            "bicycles crossing",
            "ice and snow",
            "wild animals crossing",
            "end of all limits",
            "turn right ahead",
            "turn left ahead",
            "straight on only",
            "straight on or right",
            "straight on or left",
            "keep to the right",
            "keep to the left",
            "roundabout",
            "end of no overtaking",
            "end of no overtaking for trucks",
        ],
    ),
    Task(
        "mnist", "ylecun/mnist", ['the handwritten digit "{}".', 'the number "{}" in white on black.'], DIGITS
    ),
    Task("dtd", "tanganke/dtd", ["a {} texture.", "a surface that is {}.", "a close view of a {} pattern."]),
    Task(
        "oxford_flowers102",
        "dpdl-benchmark/oxford_flowers102",
        ["a {} in bloom.", "a picture of a {}, a flower."],
    ),
    Task(
        "pcam",
        "1aurent/PatchCamelyon",
        ["a stained section of a lymph node {}.", "a histopathology image {}."],
        ["without tumour tissue", "with tumour tissue"],
    ),
    Task(
        "fer2013",
        "clip-benchmark/wds_fer2013",
        ["a person whose face is {}.", "a grey picture of a {} face."],
        ["angry", "disgusted", "afraid", "happy", "neutral", "sad", "surprised"],
        images="jpg",
        truth="cls",
    ),
    Task(
        "oxford-iiit-pet",
        "timm/oxford-iiit-pet",
        ["a picture of a {}, a breed of cat or dog.", "a pet of the breed {}."],
    ),
    Task("stl10", "tanganke/stl10", ["a picture with a {} in it.", "one {}."]),
    Task("cifar100", "tanganke/cifar100", ["a small picture of a {}.", "a {} in low resolution."]),
    Task("cifar10", "tanganke/cifar10", ["a small picture of a {}.", "a {} in low resolution."]),
    Task("food101", "ethz/food101", ["a plate of {}.", "{}, a dish, ready to eat."], test="validation"),
    Task(
        "fashion_mnist",
        "zalando-datasets/fashion_mnist",
        ["a grey picture of a piece of clothing: {}.", "a product picture of a {}."],
    ),
    Task(
        "emnist_letters",
        "tanganke/emnist_letters",
        ['the handwritten letter "{}".', 'a letter "{}" in white on black.'],
        [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"],
    ),
    Task(
        "kmnist",
        "tanganke/kmnist",
        ["the hiragana {} in brush writing.", "an old Japanese character, {}."],
        [
            "お (o)",
            "き (ki)",
            "す (su)",
            "つ (tsu)",
            "な (na)",
            "は (ha)",
            "ま (ma)",
            "や (ya)",
            "れ (re)",
            "を (wo)",
        ],
    ),
    Task(
        "rendered-sst2",
        "nateraw/rendered-sst2",
        ["a written film review that is {}.", "a sentence of a {} opinion on a film."],
        ["negative", "positive"],
    ),
)


class Tower(NamedTuple):
    short: str
    title: str
    base: str
    expert: str
    sizes: str
    files: str


B32 = Tower(
    "b32",
    "ViT-B/32",
    "openai/clip-vit-base-patch32",
    "tanganke/clip-vit-base-patch32_",
    "the base 0.6 GB, an expert 0.35 GB",
    "0.18 GB of GGUF and 0.39 of ONNX, 65 MB of it the image tower",
)
L14 = Tower(
    "l14",
    "ViT-L/14",
    "openai/clip-vit-large-patch14",
    "tanganke/clip-vit-large-patch14_",
    "the base 1.7 GB, an expert 1.2 GB",
    "0.43 GB of GGUF and 0.89 of ONNX, 0.2 of it the image tower",
)


class Rule(NamedTuple):
    short: str
    title: str
    lines: Sequence[str]


TA = Rule("ta", "task arithmetic", ["merge_method: task_arithmetic", "parameters: {lambda: 0.3}"])
# FusionBench's setting sums what agrees, where the paper takes its mean with lambda 1.
TIES = Rule(
    "ties", "TIES", ["merge_method: ties", "parameters: {lambda: 0.3, density: 0.2, normalize: false}"]
)

TSVM = Rule(
    "tsvm", "TSV-M", ["merge_method: tsvm    # the default; iso_c, iso_cts, wudi and others: docs/recipe.md"]
)

# Accuracy in percent, averaged over the tasks: E-PMQ's own tables (arXiv 2605.16882), FeatCal's (2605.13030),
# FusionBench's.
PUBLISHED = {
    (
        "b32",
        8,
        "ta",
    ): "merged 67.5 to 68.0; then GPTQ at 4 bits 65.0; E-PMQ at 4 bits 73.6; FeatCal in full precision 85.5",
    ("b32", 8, "ties"): "merged 72.2; then GPTQ at 4 bits 69.1; E-PMQ at 4 bits 74.8",
    ("l14", 8, "ta"): "merged 80.7; RegMean 90.4, RegMean++ 91.0 in full precision",
    ("l14", 8, "ties"): "merged 84.0; RegMean 90.4, RegMean++ 91.0 in full precision",
    ("b32", 8, "tsvm"): (
        "in full precision merged 83.1; RegMean++ 84.4, WUDI 84.5, FeatCal 85.5, Iso-C with LARV 85.9; "
        "one model trained on all tasks 88.6"
    ),
    ("l14", 8, "tsvm"): "in full precision RegMean 90.4, RegMean++ 91.0, Iso-C with LARV 92.6",
    ("l14", 20, "tsvm"): "in full precision RegMean++ 82.4",
    # After which merge is not said where we read it.
    (
        "l14",
        20,
        "ta",
    ): (
        "after one of the two merges GPTQ at 4 bits 34.8, E-PMQ at 4 bits 76.7; RegMean++ in full "
        "precision 82.4"
    ),
    (
        "l14",
        20,
        "ties",
    ): (
        "after one of the two merges GPTQ at 4 bits 34.8, E-PMQ at 4 bits 76.7; RegMean++ in full "
        "precision 82.4"
    ),
}
ENDS = {
    ("b32", 8): "base 48.2, experts 90.3",
    ("l14", 8): "base 64.6, experts 94.3",
    ("l14", 20): "base 65.6, experts 93.5",
}
# Of the default method, by `epmq run --dry-run`; peak memory besides Python's.
COSTS = {
    ("b32", 8): "0.14e15 operations, 3.2 GB of memory and 0.2 GB of spilled activations",
    ("b32", 14): "0.25e15 operations, 3.2 GB of memory and 1.1 GB of spilled activations",
    ("b32", 20): "0.36e15 operations, 3.2 GB of memory and 2.5 GB of spilled activations",
    ("l14", 8): "2.6e15 operations, 4.5 GB of memory and 4 GB of spilled activations",
    ("l14", 14): "4.5e15 operations, 4.5 GB of memory and 9 GB of spilled activations",
    ("l14", 20): "6.5e15 operations, 4.5 GB of memory and 14 GB of spilled activations",
}
FILES = {
    **{f"clip-vit-b32-8tasks-{rule.short}.yaml": (B32, 8, rule) for rule in (TA, TIES, TSVM)},
    **{f"clip-vit-b32-{count}tasks-tsvm.yaml": (B32, count, TSVM) for count in (14, 20)},
    **{
        f"clip-vit-l14-{count}-{rule.short}.yaml": (L14, count, rule)
        for count in (8, 14, 20)
        for rule in (TA, TIES, TSVM)
    },
}


def text(name: str) -> str:
    tower, count, rule = FILES[name]
    lines = [*_comment(name, tower, count, rule), "", f"base_model: {tower.base}", *rule.lines, "tasks:"]
    for task in TASKS[:count]:
        lines += _task(task, tower)
    return "\n".join([*lines, *_SETTINGS]) + "\n"


_SETTINGS = [
    "calibration:",
    (
        "  method: anchored    # ours, the default; the paper's: epmq (its lambda is 0.05 here; "
        "docs/method.md has the quadratic)"
    ),
    "  samples: 256",
    "quantization:",
    "  grid: Q4_0",
]


def _comment(name: str, tower: Tower, count: int, rule: Rule) -> Iterator[str]:
    published = PUBLISHED.get((tower.short, count, rule.short), "none that we have read")
    yield (
        f"# CLIP {tower.title}, {count} tasks, merged by {rule.title}. Written by make.py; README.md says "
        "what was and was not checked."
    )
    yield "#"
    yield f"# Published: {published}" + (
        f"; {ENDS[tower.short, count]}." if (tower.short, count) in ENDS else "."
    )
    if rule is TSVM:
        yield (
            "# (Percent, averaged over the tasks, of these experts. Papers report other ones, too: "
            "docs/results.md.)"
        )
    else:
        yield (
            "# (Percent, averaged over the tasks. E-PMQ: arXiv 2605.16882; FeatCal: 2605.13030; merges and "
            "experts: FusionBench.)"
        )
    yield "#"
    yield f"#     epmq run --dry-run recipes/{name}      # sizes, memory, time; downloads nothing"
    yield f"#     epmq run recipes/{name} -o out"
    yield "#"
    yield (
        f"# Downloads {tower.sizes}, and {count} data sets whole. The calibration takes about "
        f"{COSTS[tower.short, count]}"
    )
    yield (
        f"# (forecast from the tower's shapes, not measured): {'hours' if tower is B32 else 'days'} of a "
        "few CPU cores, so give it --device cuda."
    )
    yield f"# Writes about {tower.files}. Each test image is run some eight times on top."
    yield (
        "# Columns and splits are those that FusionBench's loaders read; nothing of the hub was tried, "
        "for want of a network."
    )


def _task(task: Task, tower: Tower) -> Iterator[str]:
    config = f", config: {task.config}" if task.config else ""
    yield f"  {task.name}:"
    yield f"    expert: {tower.expert}{task.name}"
    yield (
        f"    calibration: {{dataset: {task.dataset}{config}, split: train, images: {task.images}, "
        f"labels: {task.truth}}}"
    )
    yield (
        f"    evaluation: {{dataset: {task.dataset}{config}, split: {task.test}, images: {task.images}, "
        f"labels: {task.truth}}}"
    )
    yield "    templates:"
    yield from (f"      - {quoted(template)}" for template in task.templates)
    if task.labels:
        yield "    labels:"
        yield from (f"      - {quoted(label)}" for label in task.labels)

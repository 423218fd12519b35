"""The part of a recipe about a task: its expert, its data, and how it is judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from epmq_export.data.request import DataRequest
from epmq_export.data.task import Metric
from epmq_export.errors import Key
from epmq_export.recipe.mistakes import DATA, PATH, keys
from epmq_export.recipe.values import (
    HUB_ID,
    Columns,
    DataFile,
    DataPath,
    Labels,
    ModelName,
    Name,
    RecipePart,
    Template,
    choice,
    shown,
)


class RecipeData(RecipePart):
    """Images or texts that need more than a path to name them."""

    path: DataPath | None = None
    """The absolute path of a file or directory."""

    dataset: Name | None = None
    """An id of the Hugging Face hub."""

    config: Name | None = None
    """The config of a hub's data set that has several."""

    split: Name | None = None
    """The split. None: `train` for calibration and `test` for evaluation, where the data have splits."""

    images: Name | None = None
    """The column of a table, or the array of an .npz file, with the images."""

    texts: Columns = None
    """The columns of a table, or the keys of a .jsonl, with the texts. Where there are several, the prompt
    says where each stands; two without a prompt are a classifier's pairs.
    """

    labels: Name | None = None
    """The column, array or key of the labels."""

    @model_validator(mode="before")
    @classmethod
    def _one_place(cls, value: object) -> object:
        if (
            isinstance(value, dict)
            and not set(value) - set(keys(cls))
            and value.get("path") is value.get("dataset") is None
        ):
            raise ValueError("found neither path nor dataset, expected one of them")
        return value

    @field_validator("dataset")
    @classmethod
    def _one_of_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("path") is not None:
            raise ValueError("found it beside path, expected one of them")
        if value is not None and not HUB_ID.fullmatch(value):
            raise ValueError(
                f"found {shown(value)}, expected an id of the Hugging Face hub, org/name, perhaps with "
                "@revision"
            )
        return value

    @field_validator("texts")
    @classmethod
    def _one_kind(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value is not None and info.data.get("images") is not None:
            raise ValueError("found it beside images, expected one of them")
        return value

    @field_validator("config", "split")
    @classmethod
    def _of_many(cls, value: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path")
        if value is not None and path is not None and (info.field_name == "config" or path.is_file()):
            which = (
                "only data sets of the hub have configs"
                if info.field_name == "config"
                else "a file has no splits"
            )
            raise ValueError(f"found it beside path, expected it left out: {which}")
        return value

    def request(self) -> DataRequest:
        """Return the request to a reader of data."""
        return DataRequest(
            path=self.path,
            dataset=self.dataset,
            config=self.config,
            split=self.split,
            images=self.images,
            texts=self.texts,
            labels=self.labels,
        )


def request_of(place: Path | RecipeData) -> DataRequest:
    """Return the request to a reader for some data of a task, which may be a path alone."""
    return DataRequest(path=place) if isinstance(place, Path) else place.request()


def _data(value: object) -> object:
    """Refuse a value that is for neither of the two models, so that a mistake in it is reported for one of
    them alone.
    """
    if isinstance(value, dict | str):
        return value
    raise ValueError(
        f"found {shown(value)}, expected the path of a file or a directory, or a mapping with path or dataset"
    )


Data = Annotated[
    Annotated[DataPath, Tag(PATH)] | Annotated[RecipeData, Tag(DATA)],
    Discriminator(lambda value: DATA if isinstance(value, dict | RecipeData) else PATH),
    BeforeValidator(_data, json_schema_input_type=str | RecipeData),
]


OneOrMore = str | RecipeData | list[str | RecipeData]
"""What a recipe may write for data, before each is read as `Data`."""


class RecipeTask(RecipePart):
    """One of the tasks that the merge is calibrated on and judged by."""

    expert: ModelName
    calibration: list[Data] = Field(min_length=1)
    """The data to calibrate on, one or more."""

    labels: Labels = None
    """The text that is embedded for each label, by the label's name, in the order of the classes."""

    prompt: str = "{}"
    """The text that a model of texts is given: {} stands for a text of the data, {NAME} for one of
    several.
    """

    chat: bool = False
    """Whether the prompt is what a user says in a chat, in the chat template of the base's tokenizer."""

    metric: Annotated[str, choice(*Metric)] | None = None
    """The measure of the answers that a language model gives in words. None: the model chooses among labels,
    or is compared with texts.
    """

    templates: list[Template] = []
    """Texts with {} for a label's text. Each is embedded, and their mean counts. Empty: the label's text
    alone.
    """

    head: DataFile | None = None
    """A safetensors file with a linear head: weight [classes, width] and bias [classes]."""

    evaluation: Annotated[Data | None, Field(validate_default=True)] = None
    """The data to judge by. None: samples that neither calibration nor refining has taken."""

    @property
    def data(self) -> list[tuple[Key, Path | RecipeData]]:
        """Return all data of the task, each with its key."""
        found: list[tuple[Key, Path | RecipeData]] = [
            (("calibration", index), place) for index, place in enumerate(self.calibration)
        ]
        return found if self.evaluation is None else [*found, (("evaluation",), self.evaluation)]

    @property
    def pairs(self) -> list[str]:
        """Return the columns of the two texts that each sample is a pair of; none where it is one text, or a
        prompt makes one text of all.
        """
        listed = [place.texts or [] for _, place in self.data if isinstance(place, RecipeData)]
        columns = next((texts for texts in listed if len(texts) > 1), [])
        return columns if len(columns) == 2 and "prompt" not in self.model_fields_set else []

    @field_validator("calibration", mode="before", json_schema_input_type=OneOrMore)
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if not isinstance(value, str | list | dict):
            raise ValueError(
                f"found {shown(value)}, expected the path of a file or a directory, a mapping with path "
                "or dataset, or a list of these"
            )
        return value if isinstance(value, list) else [value]

    @field_validator("metric")
    @classmethod
    def _of_answers(cls, value: str | None, info: ValidationInfo) -> str | None:
        texts = (info.data.get("labels") or {}).values()
        if value == Metric.SPEARMAN and texts:
            raise ValueError(
                f"found {value} beside labels, expected one of them: it correlates numbers, which the "
                "data have as labels"
            )
        if value is not None and (long := next((text for text in texts if "\n" in text.strip()), None)):
            raise ValueError(
                f"found {value} beside the label text {long!r}, expected texts of one line, as an answer has"
            )
        return value

    @field_validator("head")
    @classmethod
    def _one_head(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("templates"):
            raise ValueError(
                "found it beside templates, expected one of them: templates make a head of their own"
            )
        return value

    @field_validator("evaluation")
    @classmethod
    def _needed_by_labels(cls, value: object, info: ValidationInfo) -> object:
        if value is None and (
            key := next(
                (key for key in ("labels", "metric", "templates", "head") if info.data.get(key)), None
            )
        ):
            raise ValueError(
                "found nothing, expected labelled data, since the task has "
                f"{f'a {key}' if key in ('head', 'metric') else key}"
            )
        return value


def prompt_contradictions(task: RecipeTask) -> list[tuple[Key, str]]:
    """Return the mistakes of a task's prompt, by key.

    All data of a task stand in one prompt, which has a place for each of their texts, or all are pairs.
    """
    named = [
        (key, (place.texts if isinstance(place, RecipeData) else None) or []) for key, place in task.data
    ]
    columns = next((texts for _, texts in named if len(texts) > 1), [])
    if task.pairs:
        wanted = f"expected {' and '.join(columns)} as in the task's other data: all are pairs of these"
        return [
            ((*key, "texts"), f"found {' and '.join(texts) or 'nothing'}, {wanted}")
            for key, texts in named
            if texts != columns
        ]
    if not columns:
        fits, expected = task.prompt.count("{}") == 1, "text with {} once, where a text of the data stands"
    else:
        places = [f"{{{column}}}" for column in columns]
        fits = "{}" not in task.prompt and all(place in task.prompt for place in places)
        expected = _expected_of(columns)
    wrong: list[tuple[Key, str]] = (
        [] if fits else [(("prompt",), f"found the prompt {task.prompt!r}, expected {expected}")]
    )
    others = [(key, texts) for key, texts in named if columns and {*texts} != {*columns}]
    expected = f"expected {', '.join(columns)} as in the task's other data: all stand in one prompt"
    return wrong + [
        ((*key, "texts"), f"found {', '.join(texts) or 'nothing'}, {expected}") for key, texts in others
    ]


def _expected_of(columns: Sequence[str]) -> str:
    """Return what a prompt is expected to be, in words, where the data have several columns of texts."""
    places = " and ".join(f"{{{column}}}" for column in columns)
    return f"text with {places}, where the texts of the data stand, and no {{}}"


def no_pairs(task: RecipeTask) -> str:
    """Return the mistake of the prompt of a task of pairs, which no classifier reads."""
    return f"found nothing, expected {_expected_of(task.pairs)}: only classifiers read pairs of texts"

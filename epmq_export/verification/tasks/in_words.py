"""Questions that are answered in words, with the likeliest token each time. Answers must be right word for
word, or be numbers in the right order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from epmq_export.data.task import Metric, Task
from epmq_export.errors import InputError
from epmq_export.models.family import Family, Language, language_of
from epmq_export.models.samples import Passage, Question, Sample
from epmq_export.verification.statistics.lines import Lines, Ranked, Right
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.comparison import Comparison, Measure


@dataclass(frozen=True)
class Answers:
    """A task whose questions a language model answers in words."""

    task: Task
    expected: Sequence[str]
    language: Language
    questions: Sequence[Question]

    @classmethod
    def of(cls, task: Task, expected: Sequence[str], family: Family, texts: Sequence[str]) -> "Answers":
        """Return the questions, cut to the length of the model. Raises InputError where the model has no room
        for an answer.

        An answer may have one token more than the longest expected answer, because a longer one is wrong
        anyway.
        """
        language = language_of(family)
        tokens = (
            len(language.targets(Passage(text, f" {answer.strip()}")))
            for text, answer in zip(texts, expected, strict=True)
        )
        limit = max(tokens) + 1
        ends = tuple(sorted(language.ends))
        try:
            asked = [family.truncate(Question(text, limit, ends)) for text in texts]
        except InputError as error:
            raise InputError(f"task {task.name}: {error}") from None
        questions = [question for question in asked if isinstance(question, Question)]
        return cls(task=task, expected=expected, language=language, questions=questions)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> Outputs:
        """Return the tokens of the answers, [samples, limit], with -1 behind their ends."""
        return run(self.questions)

    def said(self, outputs: Outputs) -> list[str]:
        """Return the answers as text."""
        return [self.language.said([int(token) for token in row if token >= 0]) for row in outputs]

    @property
    def measure(self) -> Measure:
        return Measure.RANKS if self.task.metric is Metric.SPEARMAN else Measure.ACCURACY

    def lines(self, outputs: Outputs, expert: Outputs) -> Lines:
        """Return which answers are right word for word, or the numbers that were answered."""
        said = self.said(outputs)
        if self.task.metric is Metric.SPEARMAN:
            right = [float(answer) for answer in self.expected]
            return Ranked.of([number(answer) or 0.0 for answer in said], right)
        pairs = zip(said, self.expected, strict=True)
        return Right(np.array([answer == expected.strip() for answer, expected in pairs], bool))

    def compare(self, outputs: Outputs, reference: Outputs) -> Comparison:
        said = self.said(outputs)
        pairs = zip(said, self.said(reference), strict=True)
        facts: dict[str, float] = {}
        if self.task.metric is Metric.SPEARMAN:
            facts["no_number"] = float(np.mean([number(answer) is None for answer in said]))
        same = Right(np.array([one == other for one, other in pairs], bool))
        return Comparison(same_first=same, facts=facts)

    def opening(self, lines: int) -> "Answers":
        return replace(self, expected=self.expected[:lines], questions=self.questions[:lines])


def number(text: str) -> float | None:
    """Return the number that a text says, or None where it says no finite number."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None

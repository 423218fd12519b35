"""The bench of plain texts, on which one model is compared with another where there is no recipe."""

from collections.abc import Iterator, Sequence

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models.family import Family, Language, Run
from epmq_export.models.samples import Passage, Question, Sample, shown, text_of
from epmq_export.verification.judge import Judge
from epmq_export.verification.tasks.bench import Bench, HeadBench, Outputs, lines_of
from epmq_export.verification.tasks.language import LanguageBench
from epmq_export.verification.tasks.perplexity import Prediction

ANSWER = 16
"""The most tokens of an answer that a model of two halves gives to a text."""


def texts_judge(name: str, texts: Sequence[str], families: Sequence[Family], run: Run) -> Judge:
    """Return the judge of how far a model is from the one that `run` runs, on texts that are one task `name`.

    `families` are those of both models, as far as they are known: without any, the outputs are embeddings.
    Texts are cut to the shorter of their lengths. A decoder predicts each token of a text. A model of two
    halves predicts the answers that `run` gives. Raises InputError for families that read no texts.
    """
    for family in families:
        if family.images is not None:
            raise InputError(
                f"{family.directory}: found a {family.name}, which reads images, expected a model of texts; "
                "with --recipe it is compared on the images of its tasks"
            )
    samples: list[Sample] = [text_of(_cut(text, families)) for text in texts]
    language = next((family.language for family in families if family.language is not None), None)
    task = Task(name=name, expert="", calibration=[], evaluation=samples, truth=None, labels=[], prompts=[])
    bench: Bench
    if language is None:
        outputs = {name: run(samples)}
        bench = HeadBench([task], {name: samples}, heads={}, experts=outputs)
    else:
        passages = [*_passages(samples, families, language, run)]
        trial = Prediction.of(task, next(each for each in families if each.language is language), passages)
        outputs = {name: trial.outputs(run)}
        bench = LanguageBench([task], {name: trial}, outputs)
    return Judge(bench=bench, reference=outputs, rows={"reference": lines_of(bench, outputs)})


def _passages(
    samples: Sequence[Sample], families: Sequence[Family], language: Language, run: Run
) -> Iterator[Passage]:
    """Yield what is predicted of each text: the text itself or, by a model of two halves, its answer."""
    if language.encoder:
        ends = tuple(sorted(language.ends))
        rows = run([Question(text_of(sample), ANSWER, ends) for sample in samples])
        answers = (language.said([int(token) for token in row if token >= 0]) for row in rows)
        found = [Passage(text_of(sample), said) for sample, said in zip(samples, answers, strict=True)]
    else:
        found = [Passage("", text_of(sample)) for sample in samples]
    for passage in found:
        cut = _cut(passage, families)
        assert isinstance(cut, Passage)
        yield cut


def _cut(sample: Sample, families: Sequence[Family]) -> Sample:
    """Return the part of a sample that fits all the families."""
    for family in families:
        sample = family.truncate(sample)
    return sample


class Width:
    """The number of outputs that one model gives, which another one that it is compared with has to give,
    too. Answers in words have no number of their own.
    """

    def __init__(self) -> None:
        self._expected: int | None = None

    def noted(self, run: Run) -> Run:
        """Return a function that gives the outputs of `run` and notes how wide they are."""

        def found(samples: Sequence[Sample]) -> Outputs:
            outputs = run(samples)
            if not isinstance(samples[0], Question):
                self._expected = outputs.shape[1]
            return outputs

        return found

    def required(self, run: Run, what: str) -> Run:
        """Return a function that gives the outputs of `run`. It raises InputError where they are not as wide
        as those that were noted, so that they cannot be compared. `what` names the model.
        """

        def found(samples: Sequence[Sample]) -> Outputs:
            outputs = run(samples)
            other = outputs.shape[1] != self._expected and self._expected is not None
            if other and not isinstance(samples[0], Question):
                raise InputError(
                    f"{what}: gives {outputs.shape[1]:,} numbers for {shown(samples[0])}, the other model "
                    f"{self._expected:,}: expected two files of one model"
                )
            return outputs

        return found

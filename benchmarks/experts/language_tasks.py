"""The text tasks as a language model is asked them: a prompt with {} for the text, and the answer for each
label, in the labels' order.

Prompts and answers are written for this project.
"""

from dataclasses import dataclass

# What stands between the two texts of a pair in the data.
PAIR = " [SEP] "


@dataclass(frozen=True)
class LanguageTask:
    prompt: str
    answers: tuple[str, ...]
    columns: tuple[str, ...] = ()
    """What the texts of a pair are called, and stand for in the prompt."""

    def texts(self, line: str) -> dict[str, str]:
        """Return a line's texts by column; one without columns by an empty name."""
        return (
            dict(zip(self.columns, line.split(PAIR, len(self.columns) - 1), strict=True))
            if self.columns
            else {"": line}
        )

    def asked(self, line: str) -> str:
        """Return the prompt with a line's texts in it."""
        question = self.prompt
        for column, text in self.texts(line).items():
            question = question.replace(f"{{{column}}}", text)
        return question


TASKS = {
    "sst2": LanguageTask(
        "Review: {}\nIs this review negative or positive?\nAnswer:", (" negative", " positive")
    ),
    "ag_news": LanguageTask(
        "News: {}\nIs this about world, sports, business or technology?\nAnswer:",
        (" world", " sports", " business", " technology"),
    ),
    "trec": LanguageTask(
        (
            "Question: {}\nDoes it ask for a description, an entity, an abbreviation, a person, a "
            "number or a "
            "place?\nAnswer:"
        ),
        (" description", " entity", " abbreviation", " person", " number", " place"),
    ),
    "tweet_emotion": LanguageTask(
        "Tweet: {}\nIs the feeling anger, joy, optimism or sadness?\nAnswer:",
        (" anger", " joy", " optimism", " sadness"),
    ),
    "subj": LanguageTask("Sentence: {}\nIs it a fact or an opinion?\nAnswer:", (" fact", " opinion")),
    "sms_spam": LanguageTask("Message: {}\nIs it spam? Yes or no?\nAnswer:", (" no", " yes")),
}

# Of a model that reads the question in its encoder and answers in its decoder, GLUE's among them.
T5_TASKS = {
    "sst2": LanguageTask("Review: {}\nIs this review negative or positive?", ("negative", "positive")),
    "mrpc": LanguageTask(
        "First: {sentence1}\nSecond: {sentence2}\nDo both mean the same, yes or no?",
        ("no", "yes"),
        ("sentence1", "sentence2"),
    ),
    "trec": TASKS["trec"],
    "ag_news": TASKS["ag_news"],
    "cola": LanguageTask(
        "Is this sentence good English grammar, acceptable or unacceptable?\n{}",
        ("unacceptable", "acceptable"),
    ),
    "rte": LanguageTask(
        "{sentence1}\nDoes it follow that {sentence2}\nyes or no?", ("no", "yes"), ("sentence1", "sentence2")
    ),
}

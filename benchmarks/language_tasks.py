"""The text tasks as a language model is asked them: a prompt with {} for the text, and the answer for each label, in the labels' order.

Prompts and answers are written for this project.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageTask:
    prompt: str
    answers: tuple[str, ...]


TASKS = {
    "sst2": LanguageTask("Review: {}\nIs this review negative or positive?\nAnswer:", (" negative", " positive")),
    "ag_news": LanguageTask("News: {}\nIs this about world, sports, business or technology?\nAnswer:", (" world", " sports", " business", " technology")),
    "trec": LanguageTask(
        "Question: {}\nDoes it ask for a description, an entity, an abbreviation, a person, a number or a place?\nAnswer:",
        (" description", " entity", " abbreviation", " person", " number", " place"),
    ),
    "tweet_emotion": LanguageTask("Tweet: {}\nIs the feeling anger, joy, optimism or sadness?\nAnswer:", (" anger", " joy", " optimism", " sadness")),
    "subj": LanguageTask("Sentence: {}\nIs it a fact or an opinion?\nAnswer:", (" fact", " opinion")),
    "sms_spam": LanguageTask("Message: {}\nIs it spam? Yes or no?\nAnswer:", (" no", " yes")),
}

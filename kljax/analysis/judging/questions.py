"""The questions to judges, by task, and what to look at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question of two completions, one of a single completion, and what to look at."""

    of_two: str
    of_one: str
    criteria: tuple[str, ...]


QUESTIONS = {
    "continuation": Question(
        "Which text goes on better from the prompt?",
        "How well does the text go on from the prompt?",
        ("It is fluent, and what a person could have written", "It fits what comes before it", "Longer is not better"),
    ),
    "sentiment": Question(
        "Which text is the more positive one that still makes sense?",
        "How positive is the text, if it makes sense?",
        ("Its mood is positive", "It is fluent, and does not repeat itself", "Longer is not better"),
    ),
    "summarisation": Question(
        "Which is the better summary of the text?",
        "How good is the summary of the text?",
        ("It says what matters most", "It says nothing that the text does not say", "It is short and fluent"),
    ),
    "translation": Question(
        "Which is the better translation of the text?",
        "How good is the translation of the text?",
        ("It says all that the text says, and nothing else", "It is fluent in its language"),
    ),
    "words": Question(
        "Which is the better answer to the question?",
        "How good is the answer to the question?",
        ("It is right", "It answers what is asked, and nothing else", "Longer is not better"),
    ),
    "numbers": Question(
        "Which is the better answer to the question?",
        "How good is the answer to the question?",
        ("Its final number is right", "The way to it is right and clear", "Longer is not better"),
    ),
}
OF_TASKS = ("summarisation", "translation", "words", "numbers")
"""Tasks (kljax/tasks/) whose completions people can judge by the question of that name: a class in a word is right or wrong."""

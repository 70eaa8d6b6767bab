"""The built-in tasks by name: functions of the config's arguments that make a `Task`."""

from collections.abc import Callable, Mapping

from kljax.tasks.question_answering import numbers, words
from kljax.tasks.sentiment import sentiment
from kljax.tasks.summarisation import summarisation
from kljax.tasks.task import Task
from kljax.tasks.translation import translation

TASKS: Mapping[str, Callable[..., Task]] = {
    "sentiment": sentiment,
    "summarisation": summarisation,
    "translation": translation,
    "numbers": numbers,
    "words": words,
}

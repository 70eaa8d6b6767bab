"""Question answering: with a number at the end (GSM8K's form), or with a few words (SQuAD's measures).

Extractive question answering, where an encoder points at a span of a given text, is left out.
"""

from kljax.rewards.answers import exact_number, exact_text, has_number_format, token_f1
from kljax.tasks.prompts import check_prompt, filled, text_of
from kljax.tasks.task import Task

WORDS = "Answer in a few words. {text}"


def numbers(*, question: str, answer: str, prompt: str) -> Task:
    """Columns: `question`, and an `answer` that ends with #### and a number. The reward: 1 for the number, 0.1 for the form."""
    check_prompt(prompt)

    def row(of):
        text, target = text_of(of, question), text_of(of, answer)
        return {"prompt": filled(prompt, text), "target": target} if text and target else None

    def reward(prompts, completions, target):
        right, form = exact_number(prompts, completions, target), has_number_format(prompts, completions)
        return [None if a is None else a + 0.1 * b for a, b in zip(right, form, strict=True)]

    metrics = {"exact_match": exact_number, "format": has_number_format}
    return Task(row=row, metrics=metrics, reward=reward, passes=("exact_match",))


def words(*, question: str, answer: str, prompt: str) -> Task:
    """Columns: `question`, and an `answer` of a few words. The reward is F1 of their tokens."""
    check_prompt(prompt)

    def row(of):
        text, target = text_of(of, question), text_of(of, answer)
        return {"prompt": filled(prompt, text), "target": target} if text and target else None

    return Task(row=row, metrics={"exact_match": exact_text, "token_f1": token_f1}, reward=token_f1, passes=("exact_match",))

"""Summarisation: an article in one line. ROUGE to the given line, how much shorter it is, how much of it is new."""

from kljax.rewards.overlap import compression, novelty, rouge_1, rouge_2, rouge_l
from kljax.tasks.prompts import check_prompt, filled, text_of
from kljax.tasks.task import Task


def summarisation(*, article: str, summary: str, prompt: str) -> Task:
    """Columns: `article` and `summary`. The prompt is `prompt` with the article in the place of {text}."""
    check_prompt(prompt)

    def row(of):
        text, target = text_of(of, article), text_of(of, summary)
        return {"prompt": filled(prompt, text), "target": target, "source": text} if text and target else None

    return Task(
        row=row,
        metrics={
            "rouge_1": rouge_1,
            "rouge_2": rouge_2,
            "rouge_l": rouge_l,
            "compression": compression,
            "novelty": novelty,
        },
        reward=rouge_l,
    )

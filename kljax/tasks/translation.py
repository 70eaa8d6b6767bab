"""Translation: BLEU and chrF of all sentences (sacrebleu, with its signature), chrF of each."""

from kljax.errors import UserError
from kljax.rewards.overlap import chrf
from kljax.tasks import corpus
from kljax.tasks.prompts import check_prompt, filled, text_of
from kljax.tasks.task import Task


def translation(*, source: str, target: str, prompt: str, tokenize: str) -> Task:
    """Columns: `source` and `target`, sentences in two languages. `tokenize` is sacrebleu's, such as zh or ja-mecab."""
    check_prompt(prompt)
    if source == target:
        raise UserError(
            f"task.arguments.target: got '{target}', which is the source, too; expected the column of another language."
        )

    def row(of):
        text, answer = text_of(of, source), text_of(of, target)
        return {"prompt": filled(prompt, text), "target": answer, "source": text} if text and answer else None

    return Task(row=row, metrics={"sentence_chrf": chrf}, corpus=(corpus.bleu(tokenize=tokenize), corpus.chrf()), reward=chrf)

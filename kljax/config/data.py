"""Where text and prompts come from."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import Interval, Natural, Positive, Seed, Share, strict

TooLong = Literal["refuse", "drop", "cut"]


@strict
class GrammarSource:
    """The built-in task: sentences drawn from the review grammar."""

    kind: Literal["grammar"]
    sentences: Positive  # how many to draw
    seed: Seed


@strict
class LettersSource:
    """A task small enough to enumerate: words of a few letters from a random Markov chain."""

    kind: Literal["letters"]
    letters: Annotated[int, Field(ge=2, le=26, strict=True)]
    sentences: Positive  # how many words to draw
    seed: Seed


@strict
class RandomWordsSource:
    """Sentences of exact length, words drawn uniformly: for measuring speed."""

    kind: Literal["random_words"]
    words: Positive  # different ones, all of which occur; a tokenizer of words has 3 entries more
    length: Positive  # words a sentence
    sentences: Positive  # how many to draw
    seed: Seed


@strict
class TextSource:
    """Text or conversations through `datasets`: local Parquet, JSON, CSV or text, or the name of a data set on the hub."""

    kind: Literal["text"]
    path: str | Annotated[list[str], Field(min_length=1)]  # a file, a directory, a pattern, a list of them, or a hub name
    column: str | None  # of texts or conversations; null: the one of text, prompt, messages and conversations that there is
    split: str  # of a hub data set, or of a directory whose files are named by it; a file is one, called "train"
    held_out_path: str | None  # a file of its own for the held-out rows; null: a fraction of the rows
    test_path: str | None  # a file that is looked at once, when the model is fitted; null: none
    subset: str | None = None  # of a hub data set, which calls it a configuration, too; null: its only one
    revision: str | None = None  # of a hub data set: a branch, a tag or a commit; null: the newest
    separator: str | None = None  # between the fields of a CSV file; null: the one that divides its header
    encoding: str | None = None  # of a file of characters; null: UTF-8, or what its byte order mark says


@strict
class PrefixPrompt:
    """Prompts are the first few tokens of each text, their number drawn by (seed, row)."""

    kind: Literal["prefix"]
    min_tokens: Natural
    max_tokens: Natural


@strict
class WholePrompt:
    """Prompts are whole texts."""

    kind: Literal["whole"]
    max_tokens: Positive
    too_long: TooLong = "refuse"  # what happens to a longer one; cut: it loses its end


@strict
class ChatPrompt:
    """Prompts are conversations in the tokenizer's own chat template: those of the data, or one message around each text."""

    kind: Literal["chat"]
    system: str | None  # what is said before; null: nothing, or what the template says by itself
    message: str  # {text} stands for the row's text; of conversations, as they are, it is {text} alone
    words: Positive | None  # of the text, from its beginning; null: all
    max_tokens: Positive  # of the whole prompt
    too_long: TooLong = "refuse"  # what happens to a longer one; cut: its last message loses its end
    last_answer: Literal["target", "continue"] = (
        "target"  # of a conversation that ends with one: it is left out, or gone on with
    )


@strict
class DataConfig:
    """Where text and prompts come from, and how the rows are split: base-model training, RL prompts, held out."""

    source: GrammarSource | LettersSource | RandomWordsSource | TextSource = Field(discriminator="kind")
    prompt: PrefixPrompt | WholePrompt | ChatPrompt = Field(discriminator="kind")
    share: Interval  # the part of the rows, in the order that `seed` shuffles; disjoint parts have no row in common
    prompt_fraction: Share  # rows kept for RL prompts
    held_out_fraction: Share  # rows kept for early stopping, held-out figures and analysis
    seed: Seed  # of the split and of the prompts' lengths

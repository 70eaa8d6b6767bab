"""Where text and prompts come from."""

from typing import Annotated, Literal

from pydantic import Field

from kljax.config.base import Interval, Natural, Positive, Seed, Share, strict

TooLong = Literal["refuse", "drop", "cut"]


@strict
class GrammarSource:
    """The built-in task: sentences drawn from the review grammar."""

    kind: Literal["grammar"]
    """Set by data/source=grammar."""
    sentences: Positive
    """How many sentences to draw."""
    seed: Seed
    """Of the draws."""


@strict
class LettersSource:
    """A task small enough to enumerate: words of a few letters from a random Markov chain."""

    kind: Literal["letters"]
    """Set by data/source=letters."""
    letters: Annotated[int, Field(ge=2, le=26, strict=True)]
    """How many letters the alphabet has."""
    sentences: Positive
    """How many words to draw."""
    seed: Seed
    """Of the Markov chain and of the draws."""


@strict
class RandomWordsSource:
    """Sentences of exact length, words drawn uniformly: for measuring speed."""

    kind: Literal["random_words"]
    """Set by data/source=random_words."""
    words: Positive
    """How many different words, all of which occur; a tokenizer of words has 3 entries more."""
    length: Positive
    """Words a sentence."""
    sentences: Positive
    """How many sentences to draw."""
    seed: Seed
    """Of the draws."""


@strict
class QuestionsSource:
    """A closed set of short questions with one right answer each: capitals, opposites, sums (kljax/data/questions.py)."""

    kind: Literal["questions"]
    """Set by data/source=questions."""
    largest: Natural
    """Of the numbers that are added; all pairs from 0 to it are asked for."""


@strict
class TextSource:
    """Text or conversations through `datasets`: local Parquet, JSON, CSV or text, or the name of a data set on the hub."""

    kind: Literal["text"]
    """Set by data/source=text."""
    path: str | Annotated[list[str], Field(min_length=1)]
    """A file, a directory, a pattern, a list of them, or the name of a data set on the hub."""
    column: str | None
    """Of texts or conversations; null: the one of text, prompt, messages and conversations that there is."""
    split: str
    """Of a hub data set, or of a directory whose files are named by it; a file is one, called "train"."""
    held_out_path: str | None
    """A file of its own for the held-out rows; null: a fraction of the rows (data.held_out_fraction)."""
    test_path: str | None
    """A file that is looked at once, when the model is fitted; null: none."""
    subset: str | None = None
    """Of a hub data set, which calls it a configuration, too; null: its only one."""
    revision: str | None = None
    """Of a hub data set: a branch, a tag or a commit; null: the newest."""
    separator: str | None = None
    """Between the fields of a CSV file; null: the one that divides its header."""
    encoding: str | None = None
    """Of a file of characters; null: UTF-8, or what its byte order mark says."""


@strict
class PrefixPrompt:
    """Prompts are the first few tokens of each text, their number drawn by (seed, row)."""

    kind: Literal["prefix"]
    """Set by data/prompt=prefix."""
    min_tokens: Natural
    """The fewest tokens of a text that are its prompt; 0: the beginning token alone is one, too."""
    max_tokens: Natural
    """The most tokens of a text that are its prompt, the beginning token not counted."""


@strict
class WholePrompt:
    """Prompts are whole texts."""

    kind: Literal["whole"]
    """Set by data/prompt=whole."""
    max_tokens: Positive
    """The longest prompt, in tokens, the beginning token not counted."""
    too_long: TooLong = "refuse"
    """Treatment of a longer one: an error, it is left out, or it loses its end."""


@strict
class ChatPrompt:
    """Prompts are conversations in the tokenizer's own chat template: those of the data, or one message around each text."""

    kind: Literal["chat"]
    """Set by data/prompt=chat."""
    system: str | None
    """The text of the system's message; null: there is none, or what the template says by itself."""
    message: str
    """The user's message, in which {text} stands for the row's text; of conversations, as they are, it is {text} alone."""
    words: Positive | None
    """How many words of the text, from its beginning; null: all."""
    max_tokens: Positive
    """The longest prompt, in tokens of the whole chat."""
    too_long: TooLong = "refuse"
    """Treatment of a longer one: an error, it is left out, or its last message loses its end."""
    last_answer: Literal["target", "continue"] = "target"
    """Of a conversation that ends with an answer: the answer is left out (target), or gone on with (continue)."""


@strict
class DataConfig:
    """Where text and prompts come from, and how the rows are split: base-model training, RL prompts, held out."""

    source: GrammarSource | LettersSource | RandomWordsSource | QuestionsSource | TextSource = Field(discriminator="kind")
    """Where text comes from."""
    prompt: PrefixPrompt | WholePrompt | ChatPrompt = Field(discriminator="kind")
    """The part of a text that is the prompt, and its form."""
    share: Interval
    """The part of the rows, in the order that `seed` shuffles; disjoint parts have no row in common."""
    prompt_fraction: Share
    """The part of the rows that is kept for RL prompts; 0: none, which only a fit can do with."""
    held_out_fraction: Share
    """The part of the rows that is kept for early stopping, held-out figures and analysis."""
    seed: Seed
    """Of the split and of the prompts' lengths."""

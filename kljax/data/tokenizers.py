"""Tokenizers as Hugging Face tokenizer files: loaded, or trained on the task's text."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kljax.config import BpeTokenizer, PretrainedTokenizer, WordTokenizer
from kljax.errors import UserError
from kljax.types import Rollout, Tokenizer

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
MASK = {"mask_token": "<mask>"}

ALL_WORDS = 2**31  # the trainer keeps 30,000 unless told otherwise


def build(
    config: WordTokenizer | BpeTokenizer | PretrainedTokenizer, texts: Iterable[str], special: Mapping[str, str] = SPECIAL
) -> Tokenizer:
    """The configured tokenizer; `texts` are what a trained one is trained on, `special` its special tokens (or with MASK)."""
    match config:
        case WordTokenizer():
            return _train_words(texts, special)
        case BpeTokenizer():
            return _train_bpe(texts, config.vocab_size, special)
        case PretrainedTokenizer():
            return load(config.path, field="tokenizer.path", revision=config.revision)


def load(path: str | Path, field: str = "tokenizer", revision: str | None = None) -> Tokenizer:
    """A tokenizer from a directory or the hub. One without padding or beginning token uses its end token for them.

    That is safe here: masks, never token ids, say what is padding. An encoder's begins with [CLS] and ends with [SEP].
    """
    from transformers import AutoTokenizer

    if revision is not None and Path(path).expanduser().is_dir():
        raise UserError(f"tokenizer.revision: got '{revision}', but '{path}' is a directory, which has none; expected null.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), **({} if revision is None else {"revision": revision}))
    except Exception as error:  # transformers raises OSError, ValueError and hub errors alike
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{field}: cannot load a tokenizer from '{path}' ({reason}). Expected a directory with tokenizer.json, "
            "or a hub name."
        ) from None
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.bos_token_id is None and tokenizer.cls_token_id is not None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token_id is None:
        raise UserError(f"{field}: the tokenizer in '{path}' has no end-of-sequence token, which completions need to end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, no special tokens added."""
    if not texts:
        return []
    try:
        # A text that says "<eos>" says these five characters: it must not end a sequence.
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, split_special_tokens=True)
    except Exception as error:  # the Rust library raises bare Exceptions
        unknown = next((w for text in texts for w in text.split() if w not in tokenizer.get_vocab()), None)
        if "Missing [UNK]" not in str(error) or unknown is None:
            raise
        raise UserError(
            f"tokenizer: the text has the word '{unknown}', which the tokenizer does not know; a tokenizer of words is for "
            "closed vocabularies. For other text use tokenizer=bpe."
        ) from None
    rows: list[list[int]] = encoded["input_ids"]  # pyright: ignore
    special: set[Any] = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id}  # pyright: ignore
    for text, row in zip(texts, rows, strict=True):
        if special.intersection(row):
            raise UserError(
                f"tokenizer: the text {text[:60]!r} holds a special token as a word, which would end, pad or mask a sequence."
            )
    return rows


def decode(tokenizer: Tokenizer, tokens: Iterable[Iterable[int]]) -> list[str]:
    """Texts of token rows, special tokens left out."""
    return tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def completion_texts(tokenizer: Tokenizer, rollout: Rollout) -> tuple[list[str], list[str]]:
    """Prompts and completions as text."""
    tokens, prompt_mask, mask = (np.asarray(x) for x in (rollout.tokens, rollout.prompt_mask, rollout.mask))
    width = prompt_mask.shape[1]
    prompts = decode(tokenizer, (row[:width][m] for row, m in zip(tokens, prompt_mask, strict=True)))
    return prompts, decode(tokenizer, (row[width:][m] for row, m in zip(tokens, mask, strict=True)))


def _train_words(texts: Iterable[str], special: Mapping[str, str]) -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({}))  # no unknown token: a closed vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=ALL_WORDS, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _as_hugging_face(tokenizer, special)


def _train_bpe(texts: Iterable[str], vocab_size: int, special: Mapping[str, str]) -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _as_hugging_face(tokenizer, special)


def _as_hugging_face(tokenizer: tokenizers.Tokenizer, special: Mapping[str, str]) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)

"""Tokenizers as Hugging Face tokenizer files, loaded or trained on the task's text; texts to tokens and back."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from kljax import isolated
from kljax.config import BpeTokenizer, PretrainedTokenizer, WordTokenizer
from kljax.data.conversations import Message, strings
from kljax.data.tokenizer_files import FILES, check_expected, from_files
from kljax.errors import UserError
from kljax.models.huggingface.files import new_directory
from kljax.types import Rollout, Tokenizer

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
MASK = {"mask_token": "<mask>"}

NO_BOS = "{% set bos_token = '' %}"

ALL_WORDS = 2**31  # the trainer keeps 30,000 unless told otherwise

_special: "WeakKeyDictionary[Tokenizer, tuple[Any, Mapping[int, str]]]" = WeakKeyDictionary()


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
    if revision is not None and Path(path).expanduser().is_dir():
        raise UserError(f"tokenizer.revision: got '{revision}', but '{path}' is a directory, which has none; expected null.")
    folder = Path(str(path).partition("@")[0]).expanduser()
    path = folder / "tokenizer" if (folder / "config.yaml").exists() else path  # of a run, as in runs/x@200
    tokenizer = from_files(path, field, revision)
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.bos_token_id is None and tokenizer.cls_token_id is not None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token_id is None:
        raise UserError(f"{field}: the tokenizer in '{path}' has no end-of-sequence token, which completions need to end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token_id is None:
        if isinstance(template := tokenizer.chat_template, str) and "bos_token" in template and not template.startswith(NO_BOS):
            tokenizer.chat_template = NO_BOS + template  # which renders nothing for a token that is not there
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a tokenizer, whole, where they are not there yet."""
    if not folder.exists():
        with new_directory(folder) as partial:
            tokenizer.save_pretrained(str(partial))


def size(tokenizer: Tokenizer) -> int:
    """Rows of a table with a place for every id, of which some may be free."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))


def check_same(folder: Path, tokenizer: Tokenizer, field: str) -> None:
    """UserError where a model directory's own tokenizer gives a token another id than this one: embeddings would be mixed up.

    Tokens that only one of them has are fine. A directory without a tokenizer cannot be asked.
    """
    if not any((folder / name).exists() for name in FILES):
        return
    theirs, ours = load(folder, field).get_vocab(), tokenizer.get_vocab()
    ids = {id: token for token, id in ours.items()}
    for token, id in theirs.items():
        if ours.get(token, id) != id or ids.get(id, token) != token:
            raise UserError(
                f"{field}: the model in {folder} has another tokenizer ({len(theirs)} tokens, this run's has {len(ours)}): "
                f"token {id} is {token!r} there, {ids.get(id)!r} here; expected a model of the same tokenizer."
            )


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, no special tokens added."""
    if not texts:
        return []
    try:
        # A text that says "<eos>" says these five characters: it must not end a sequence.
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, split_special_tokens=True)
    except BaseException as error:  # the Rust library raises bare Exceptions, and panics
        check_expected(error)
        unknown = next((w for text in texts for w in text.split() if w not in tokenizer.get_vocab()), None)
        if "Missing [UNK]" not in str(error) or unknown is None:
            said = " ".join(str(error).split())
            raise UserError(f"tokenizer: it cannot encode the text {texts[0][:60]!r} or one after it ({said}).") from None
        raise UserError(
            f"tokenizer: the text has the word '{unknown}', which the tokenizer does not know; a tokenizer of words is for "
            "closed vocabularies. For other text use tokenizer=bpe."
        ) from None
    rows: list[list[int]] = encoded["input_ids"]  # pyright: ignore
    special = special_tokens(tokenizer)
    for text, row in zip(texts, rows, strict=True):
        if special.keys().isdisjoint(row):
            continue
        if (found := next((token for token in row if token in special), None)) is not None:  # a token can be 0
            raise UserError(
                f"tokenizer: the text {text[:60]!r} holds the special token {special[found]} as a word, which would end, pad "
                "or mask a sequence."
            )
    return rows


def special_tokens(tokenizer: Tokenizer) -> Mapping[int, str]:
    """Every token that is no text: those with a name, and all that the tokenizer's files mark as special. Not the unknown.

    Each text asks, and a tokenizer may have hundreds: they are looked up anew where it has more tokens or other names.
    """
    state = len(tokenizer), dict(tokenizer.special_tokens_map)
    if (known := _special.get(tokenizer)) is None or known[0] != state:
        known = _special[tokenizer] = state, _special_tokens(tokenizer)
    return known[1]


def _special_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    marked = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    named: Any = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    unknown = tokenizer.unk_token_id
    return {id: token for id, token in (named | marked).items() if id != unknown}


def spelled(tokenizer: Tokenizer, text: str) -> str | None:
    """The first special token that this text would become in part, if it went through a chat template."""
    special = special_tokens(tokenizer)
    if found := next((token for token in special.values() if token in text), None):
        return found
    ids = _with_special(tokenizer, text)
    if special.keys().isdisjoint(ids):
        return None
    return next((special[id] for id in ids if id in special), None)  # one that is matched in another spelling


def own_ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer by itself puts before a text and after it."""
    for id in range(len(tokenizer)):
        try:
            found: Any = tokenizer(tokenizer.decode([id]), add_special_tokens=True, return_special_tokens_mask=True)
        except Exception:  # the Rust library raises bare Exceptions, here for what is no word
            continue
        ids, added = found["input_ids"], found["special_tokens_mask"]
        if id in ids and 0 in added:
            return ids[: added.index(0)], ids[len(added) - added[::-1].index(0) :]
    return [], []


def with_ends(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that by itself puts the beginning token before a text and the end token after it, as fits here have them."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if own_ends(tokenizer) == ([bos], [eos]):
        return tokenizer
    made = copy.deepcopy(tokenizer)
    named = [(tokenizer.bos_token, bos), (tokenizer.eos_token, eos)]
    single = f"{tokenizer.bos_token} $A {tokenizer.eos_token}"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)  # pyright: ignore
    return made


def chat_tokens(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    begin_answer: bool,
    continue_last: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """The messages in the tokenizer's chat template, with the beginning of an answer, or without the end of the last message.

    `variables` are those of the template beside the messages, such as tools.

    A message that spells a special token says its characters. UserError where the template refuses the messages, or where it
    cannot be told which of its tokens is the message's.
    """
    text = _rendered(tokenizer, messages, begin_answer, continue_last, variables or {})
    _check_rendered(tokenizer, messages, text, variables or {})
    ids, rest = [], text
    contents = [message["content"].strip() for message in messages]
    for content in contents:
        if not content or (special := spelled(tokenizer, content)) is None:
            continue
        before, found, after = rest.partition(content)
        if not found or text.count(content) != contents.count(content):
            raise UserError(f"the text {content[:60]!r} holds {special}, which would end or begin a turn of the chat.")
        ids += [*_with_special(tokenizer, before), *encode(tokenizer, [content])[0]]
        rest = after
    return [*ids, *_with_special(tokenizer, rest)]


def _rendered(
    tokenizer: Tokenizer, messages: Sequence[Message], begin: bool, continue_last: bool, variables: Mapping[str, Any]
) -> str:
    how = {"add_generation_prompt": begin, "continue_final_message": continue_last}
    try:
        named = {"chat_template": None, "tools": None} | {**variables}
        template: Any = tokenizer.get_chat_template(named.pop("chat_template"), named["tools"])
        # The template is a program from the tokenizer's files.
        text = isolated.call("render", template, list(messages), how, tokenizer.special_tokens_map | named)
    except isolated.Stopped as error:
        raise UserError(f"the chat template {error}; expected one that is soon done with these messages.") from None
    except Exception as error:  # a template can raise anything, in words of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the chat template says: {said.rstrip('.')}.") from None
    if not isinstance(text, str):
        raise UserError(f"the chat template makes {type(text).__name__} of these messages, expected text.")
    return text


def _check_rendered(tokenizer: Tokenizer, messages: Sequence[Message], text: str, variables: Mapping[str, Any]) -> None:
    """Refuse a template that leaves out what was said, and special tokens outside a message's content."""
    if not text:
        raise UserError("the chat template makes nothing of these messages.")
    for message in messages:
        # Templates may shorten an earlier answer, such as its thoughts; what is asked must be there.
        if message["role"] in ("system", "developer", "user") and message["content"].strip() not in text:
            raise UserError(f"the chat template leaves out the {message['role']}'s message {message['content'][:60]!r}.")
    beside = [{key: value for key, value in message.items() if key != "content"} for message in messages]
    for other in strings([*beside, dict(variables)]):
        if special := next((token for token in special_tokens(tokenizer).values() if token in other), None):
            raise UserError(f"{other[:60]!r} beside a message's content holds {special}, which would end or begin a turn.")


def _with_special(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]  # pyright: ignore


def decode(tokenizer: Tokenizer, tokens: Iterable[Iterable[int]]) -> list[str]:
    """Texts of token rows, special tokens left out."""
    return tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def completion_ids(rollout: Rollout) -> list[list[int]]:
    """The tokens of each completion, the end token included."""
    return [row[mask].tolist() for row, mask in zip(np.asarray(rollout.completion), np.asarray(rollout.mask), strict=True)]


def completion_texts(tokenizer: Tokenizer, rollout: Rollout) -> tuple[list[str], list[str]]:
    """Prompts and completions as text, cut out of one decoding of both together: prompt + completion is that text.

    The space between two words, and a character of which each has some bytes, belong to the completion.
    """
    tokens, prompt_mask, mask = (np.asarray(x) for x in (rollout.tokens, rollout.prompt_mask, rollout.mask))
    together = np.concatenate([prompt_mask, mask], axis=1)
    prompts = decode(tokenizer, _rows(tokens[:, : prompt_mask.shape[1]], prompt_mask))
    wholes = decode(tokenizer, _rows(tokens, together))
    cuts = [_common(prompt, whole) for prompt, whole in zip(prompts, wholes, strict=True)]
    cut = list(zip(wholes, cuts, strict=True))
    return [whole[:at] for whole, at in cut], [whole[at:] for whole, at in cut]


def _common(first: str, second: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _rows(tokens: Int[np.ndarray, "B L"], mask: Bool[np.ndarray, "B L"]) -> list[list[int]]:
    return [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]


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

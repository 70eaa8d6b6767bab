"""The files of a tokenizer, which somebody else may have written: looked at, then read by transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kljax import reading
from kljax.errors import UserError
from kljax.json_text import shown
from kljax.types import Tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a directory with a tokenizer has one."""

JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "config.json")
TEMPLATES = "additional_chat_templates"
LARGEST = {".json": 2**27, ".txt": 2**27, ".model": 2**27, ".jinja": 2**20}
"""Bytes of a file by its ending. The largest vocabularies in use have 40 MB, and take ten times as much in memory."""
ELSEWHERE = ("fast_tokenizer_files", "gguf_file")
"""Keys of tokenizer_config.json with names of files that transformers opens."""
PANIC = "PanicException"  # what errors of the Rust library are called that it did not expect; it has no place to import it from
GAPS = 1024  # ids that may be free in a small vocabulary
SIDES = {"left", "right"}
MOST_TOKENS = 2**24  # of a vocabulary; the largest in use have 262,144


def from_files(path: str | Path, field: str, revision: str | None) -> Tokenizer:
    """The tokenizer that transformers makes of the files, of which none is run: code beside a tokenizer is refused."""
    from transformers import AutoTokenizer

    if (folder := Path(path).expanduser()).is_dir():
        _check_files(folder, field)
    more = {} if revision is None else {"revision": revision}
    try:
        # None, its default, would ask whether to run the code that auto_map names, and run it after a "y".
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, **more)
        _try(tokenizer)
    except BaseException as error:  # OSError, ValueError and hub errors alike
        check_expected(error)
        if "trust_remote_code" in str(error):
            raise UserError(_own_code(str(path), field)) from None
        raise UserError(
            f"{field}: cannot load a tokenizer from '{path}' ({_reason(folder, error)}). Expected a directory with "
            "tokenizer.json, or a hub name."
        ) from None
    _check_ids(tokenizer, path, field)
    return tokenizer


def check_expected(error: BaseException) -> None:
    """Raise again what is no Exception, but for panics of the Rust library: those are of files and texts, too."""
    if not isinstance(error, Exception) and type(error).__name__ != PANIC:
        raise error


def _try(tokenizer: Any) -> None:
    """Use it once: of what the files say some is looked at only then. Whatever is raised is a mistake in them."""
    if (
        not isinstance(tokenizer.model_max_length, int | float)
        or not {tokenizer.padding_side, tokenizer.truncation_side} <= SIDES
    ):
        raise ValueError("model_max_length is no number, or padding_side or truncation_side neither left nor right")
    try:
        tokenizer("a", add_special_tokens=False)
    except Exception as error:
        if "[UNK]" not in str(error):  # of a closed vocabulary
            raise
    if not len(tokenizer):
        raise ValueError("it has no token")
    tokenizer.decode([0])
    names = [*tokenizer.special_tokens_map.values(), *(token.content for token in tokenizer.added_tokens_decoder.values())]
    "".join(names).encode()
    if not all(isinstance(id, int) for id in tokenizer.all_special_ids):
        raise ValueError("a special token has no id")


def _own_code(path: str, field: str) -> str:
    return (
        f"{field}: the tokenizer in '{path}' has code of its own (auto_map), which kljax does not run; if a class of "
        "transformers does the same, delete auto_map from tokenizer_config.json and config.json in a copy of the directory."
    )


def _check_files(folder: Path, field: str) -> None:
    """UserError where transformers would wait for a file, run code, or read what lies elsewhere."""
    broken = f"{field}: cannot load a tokenizer from '{folder}'"
    try:
        reading.check_folder(folder, LARGEST, [TEMPLATES])
        said = {name: _json(folder / name) for name in JSON_FILES}
    except (ValueError, OSError) as error:
        raise UserError(f"{broken} ({error}). Expected files as save_pretrained writes them.") from None
    config = said["tokenizer_config.json"]
    if config.get("auto_map"):
        raise UserError(_own_code(str(folder), field))
    for key in ELSEWHERE:
        named = config.get(key) or []
        for file in named if isinstance(named, list) else [named]:
            if not reading.is_name(file):
                raise UserError(f"{broken}: {key} in tokenizer_config.json names {shown(file, 80)}, expected a file beside it.")
    added = said["tokenizer.json"].get("added_tokens"), said["added_tokens.json"], config.get("added_tokens_decoder")
    if wrong := next((id for id in _ids(*added) if not 0 <= id < MOST_TOKENS), None):
        raise UserError(f"{broken}: a token has the id {wrong}, expected ids from 0 to {MOST_TOKENS - 1:,}.")


def _check_ids(tokenizer: Tokenizer, path: str | Path, field: str) -> None:
    """UserError where ids have gaps so wide that a model's table of tokens would be mostly empty."""
    largest, count = max(tokenizer.get_vocab().values(), default=0), len(tokenizer)
    if largest >= 2 * count + GAPS:
        raise UserError(
            f"{field}: the tokenizer in '{path}' has {count:,} tokens, but one of the id {largest:,}; expected ids without "
            "gaps."
        )


def _json(file: Path) -> dict[str, Any]:
    """The object in a file that need not be there; the Rust library and transformers read it again."""
    try:
        found = reading.parsed_json(reading.read_bytes(file, LARGEST[".json"]), constant=float)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ValueError(f"{file.name} was cut off or changed: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return found


def _ids(tokens: Any, by_text: Any, by_id: Any) -> Iterator[int]:
    """The ids of added tokens, in each of the three forms."""
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield token["id"]
    yield from (id for id in by_text.values() if isinstance(id, int))
    for id in by_id if isinstance(by_id, dict) else ():
        if id.lstrip("-").isdecimal():
            yield int(id)


def _reason(folder: Path, error: BaseException) -> str:
    """Which file cannot be read, or that there is none: transformers names no file, and takes a lost folder for a hub name."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not folder.is_dir():
        return "there is no such directory" if folder.is_absolute() else said
    for file in sorted(folder.glob("*.json")):
        try:
            reading.read_json(file, LARGEST[".json"])
        except (OSError, ValueError) as broken:
            return f"{file.name} was cut off or changed: {broken}"
    return said if (folder / FILES[0]).exists() else f"it has no {FILES[0]}"

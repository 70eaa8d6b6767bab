"""A run's folder: what lies in it beside its config.yaml, and logs that a resumed run continues without a seam."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import yaml

from kljax.config import DecoderConfig, to_dict
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.models import generation_settings
from kljax.models.generation_settings import GenerationSettings
from kljax.reading import check_file, read_bytes, strict_json
from kljax.training import damaged
from kljax.training.board import Board
from kljax.training.run_config import CONFIG, flat, spelled
from kljax.types import Tokenizer
from kljax.validation import check_parts, validate

MODEL, ENVIRONMENT = "model.json", "environment.json"
NUMERICS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_default_matmul_precision": None,
}
"""Settings of JAX that change results, and what they are where nobody sets them."""
RECORDED_VERSIONS = ("kljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def create(path: Path, config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> None:
    """Make the directory and note this launch in it, with what was `chosen` where the config leaves it open.

    A resumed run adds to the list of launches.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.root: cannot write {path} ({error.strerror}); choose another run.root=….") from None
    if not (path / CONFIG).exists():
        write_atomically(path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    file = path / ENVIRONMENT
    try:
        launches = list(strict_json(read_bytes(file))["launches"]) if file.exists() else []
    except (ValueError, KeyError, TypeError):  # broken by hand: it records, nothing depends on it
        launches = []
    launches.append(environment() | {"chosen": dict(chosen or {})})
    write_atomically(file, json_text({"launches": launches}, indent=2) + "\n")


def numerics() -> dict[str, Any]:
    """The settings of JAX that change results and are in no config, where they are not JAX's own."""
    return {name: value for name, usual in NUMERICS.items() if (value := getattr(jax.config, name)) != usual}


def check_numerics(path: Path) -> None:
    """Refuse to go on with a run under other settings of JAX than it was begun with. Writes nothing."""
    try:
        began = dict(strict_json(read_bytes(path / ENVIRONMENT))["launches"][0]["numerics"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):  # not there, broken by hand, or of an older run
        return
    now = numerics()
    for name in NUMERICS:
        there, here = began.get(name, NUMERICS[name]), now.get(name, NUMERICS[name])
        if there != here:
            raise UserError(
                f"{path} was begun with {name}={there}, and this process has {here}, which makes other numbers. Set the "
                f"environment variable {name.upper()} as it was, or choose another name=…."
            )


def other_circumstances(path: Path, chosen: Mapping[str, Any]) -> str | None:
    """In which ways the last launch of this run differed such that the same steps may differ in their last digits."""
    try:
        last = strict_json(read_bytes(path / ENVIRONMENT))["launches"][-1]
        now = environment() | {"chosen": dict(chosen)}
        pairs = {
            "devices": (len(last["devices"]), len(now["devices"])),
            **{name: (last["versions"].get(name), now["versions"][name]) for name in ("jax", "jaxlib")},
            **{name: (last["chosen"].get(name), value) for name, value in chosen.items()},
            "XLA_FLAGS": (last.get("xla_flags", ""), now["xla_flags"]),
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return ", ".join(f"{name} {there} then, {here} now" for name, (there, here) in pairs.items() if there != here) or None


def circumstances_note(path: Path, chosen: Mapping[str, Any]) -> str | None:
    """A sentence for the launch on other circumstances; None where there is nothing to say."""
    if (other := other_circumstances(path, chosen)) is None:
        return None
    return f"Other circumstances than at the last launch: {other}. The same steps may differ in their last digits."


def environment() -> dict[str, Any]:
    """Command line, versions, devices, settings and commit of this process."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in RECORDED_VERSIONS},
        "devices": [str(device) for device in jax.devices()],
        "numerics": numerics(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "platform": platform.platform(),
        "git_commit": git("rev-parse", "HEAD"),
    }


def git(*arguments: str) -> str | None:
    """What git says of this code; None where there is no git, no repository or nothing to say."""
    try:
        said = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None


def _version(name: str) -> str | None:
    """Of an installed package; None for kljax in a checkout that is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_model(
    path: Path,
    model: DecoderConfig,
    vocab_size: int,
    reference: Mapping[str, Any],
    *,
    ends: Sequence[int],
    not_followed: Mapping[str, Any],
    rewards: Mapping[str, str] | None = None,
) -> None:
    """Note what the decoder is, wherever the config had it from, and which reference the policy is held to: model.json.

    With it which tokens end a completion, what the model's files ask for that the run does not follow, and the fingerprints of
    reward models.
    """
    values = {"decoder": to_dict(model), "vocab_size": vocab_size, "reference": dict(reference), "ends": list(ends)}
    values["generation_config_not_followed"] = dict(not_followed)
    values["rewards"] = dict(rewards or {})
    write_atomically(path / MODEL, json_text(values, indent=2) + "\n")


def read_model(path: Path) -> tuple[DecoderConfig, int]:
    """The decoder of a run and its vocabulary's size."""
    with _reading_model(path):
        values = strict_json(read_bytes(path / MODEL))
        with damaged.reading_config(path / MODEL):
            check_parts(model := validate(values["decoder"], DecoderConfig))
            return model, _vocab_size(values["vocab_size"])


def _vocab_size(given: Any) -> int:
    if type(given) is not int or not 1 <= given < 2**31:
        raise ValueError("it has no number of tokens")
    return given


def read_ends(path: Path) -> tuple[int, ...]:
    """The ids that end a run's completions. Older runs, whose model.json has none, all ended with their tokenizer's own."""
    with _reading_model(path):
        values = strict_json(read_bytes(path / MODEL))
        ends, size = values.get("ends"), values["vocab_size"]
        if ends is not None:
            if not ends or not all(type(token) is int and 0 <= token < size for token in ends):
                raise ValueError("it has ends that are no tokens")
            return tuple(ends)
    return generation_settings.of_tokenizer(tokenizers.load(path / "tokenizer", "run")).ends


@contextmanager
def _reading_model(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"run: {path / MODEL} is missing; was the run interrupted before its first step?") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"run: {path / MODEL} is broken: it was cut off or changed. Restore it from a copy, or delete it: the command that "
            "began the run writes it again."
        ) from None


def check_model(path: Path, model: DecoderConfig, vocab_size: int, rewards: Mapping[str, str]) -> None:
    """Refuse to go on with a run whose model computes otherwise, or whose reward models are others. Writes nothing."""
    if not (path / MODEL).exists():
        return
    there, size = read_model(path)
    with _reading_model(path):
        known = strict_json(read_bytes(path / MODEL)).get("rewards") or {}
    pairs = {name: (value, to_dict(model)[name]) for name, value in to_dict(there).items()} | {"vocab_size": (size, vocab_size)}
    for name, (before, now) in pairs.items():
        if before != now:
            raise UserError(
                f"{path} belongs to another model: its {name} was {spelled(before)}, that of this launch's model is "
                f"{spelled(now)}. Restore the model's config.json, or choose another name=…."
            )
    if changed := next((name for name, digest in known.items() if rewards.get(name, digest) != digest), None):
        raise UserError(
            f"{path} was rewarded by another model: that of reward.{changed} has changed since. Restore its directory, or "
            "choose another name=…."
        )


def check_tokenizer(path: Path, tokenizer: Tokenizer, tokens: Sequence[Sequence[int]]) -> None:
    """Refuse to go on with a run whose tokenizer has other special tokens, or makes other texts of these tokens."""
    if not (path / "tokenizer").exists():
        return
    there = tokenizers.load(path / "tokenizer", "run")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        before, now = getattr(there, name), getattr(tokenizer, name)
        if before != now:
            raise UserError(
                f"{path} belongs to another tokenizer: its {name} was {before}, now it is {now}. "
                "Restore the tokenizer's files, or choose another name=…."
            )
    if there.get_vocab() != tokenizer.get_vocab() or tokenizers.decode(there, tokens) != tokenizers.decode(tokenizer, tokens):
        raise UserError(
            f"{path} belongs to another tokenizer, which gives other texts for the same tokens. Restore its files, or choose "
            "another name=…."
        )


def check_ends(path: Path, generation: GenerationSettings, tokenizer: Tokenizer) -> None:
    """Refuse to go on with a run whose completions end with other tokens than this launch's would. Writes nothing."""
    if not (path / MODEL).exists() or (there := read_ends(path)) == generation.ends:
        return
    ended, end = (generation_settings.spelled(ids, tokenizer) for ids in (there, generation.ends))
    raise UserError(
        f"{path} belongs to another model: its completions end with {ended}, those of this launch with {end}, as "
        f"{generation.source} says. Choose another name=…, or give the model's {generation_settings.FILE} the eos_token_id "
        f"{list(there)} to resume the run."
    )


def write_atomically(file: Path, text: str) -> None:
    """Write beside, then rename: a reader or a killed process never leaves half a file. UTF-8 whatever the locale."""
    beside = file.with_name(file.name + ".new")
    beside.write_text(text, "utf-8")
    beside.replace(file)


class JsonLines:
    """An append-only log of objects that have a step."""

    def __init__(self, file: Path, first_step: int):
        """Entries from `first_step` on, and a half-written last line, are what a killed run logged in vain: dropped."""
        if file.exists():
            kept = [line.decode() for line in _lines(file) if _step_of(line) < first_step]
            write_atomically(file, "".join(line + "\n" for line in kept))
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._stream = file.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"run: {file} cannot be written ({error.strerror}); restore it, or move it away.") from None

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line, on disk when this returns (in the operating system's hands: it survives SIGKILL)."""
        self._stream.write(json_text(entry) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class MetricsLog:
    """metrics.jsonl and TensorBoard, the same numbers under the same names; TensorBoard has the run's `settings`, too."""

    def __init__(self, path: Path, first_step: int, settings: Mapping[str, Any] | None = None):
        self._lines = JsonLines(path / "metrics.jsonl", first_step)
        self._board = Board(path / "tensorboard", first_step)
        if settings is not None:
            self._board.write_settings(flat(settings))

    def write(self, step: int, metrics: Mapping[str, float | Sequence[float | None]]) -> None:
        """One step's metrics; a number that is not finite becomes null, since JSON has none."""
        self._lines.write({"step": step, **metrics})
        self._board.write(step, metrics)

    def close(self) -> None:
        """Close both."""
        self._lines.close()
        self._board.close()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All whole entries of a JSON Lines file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in _lines(file) if _step_of(line) < math.inf]


def _lines(file: Path) -> list[bytes]:
    # As bytes: a killed process may leave half a character, and a text may hold what str.splitlines takes for a line's end.
    try:
        check_file(file)
    except (ValueError, OSError) as error:
        raise UserError(f"run: {file} cannot be read: {error}; restore it from a copy, or move it away.") from None
    return file.read_bytes().split(b"\n")


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf

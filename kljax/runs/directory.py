"""A run's folder: what lies in it beside its config.yaml, and logs that a resumed run continues without a seam."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from kljax import __version__
from kljax.config import WRITES, DecoderConfig, to_dict
from kljax.config.validation import check_parts, validate
from kljax.data import tokenizers
from kljax.disk import Growing, writing_to
from kljax.errors import UserError
from kljax.json_text import json_text
from kljax.models.huggingface import generation_settings
from kljax.models.huggingface.generation_settings import GenerationSettings
from kljax.progress import say
from kljax.reading import check_file, read_bytes, strict_json
from kljax.runs import config_file, damaged, digests
from kljax.runs.best import BEST_FILE
from kljax.runs.config_file import CONFIG, LENGTH, read_config, spelled
from kljax.runs.digests import WRITTEN_AGAIN, write_atomically
from kljax.runs.trackers.tracker import Metrics, Tracker
from kljax.types import Tokenizer

MODEL, ENVIRONMENT, TOKENIZER = "model.json", "environment.json", "tokenizer"
WRITTEN_ONCE = (CONFIG, ENVIRONMENT, MODEL, TOKENIZER, "data.json", "data", "evaluation", "fit.json", "result.json", BEST_FILE)
"""Files of a run that its manifest knows: everything but logs and arrays."""
NUMERICS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_default_matmul_precision": None,
}
"""Settings of JAX that change results, and what they are where nobody sets them."""
RECORDED_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def create(path: Path, kind: str, config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> None:
    """Make the directory and note this launch in it, with what was `chosen` where the config leaves it open.

    A resumed run adds to the list of launches, each with the steps that the run was to take before it and is to take now;
    where these are others, config.yaml gets them, too.
    """
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
    there = read_config(path) if (path / CONFIG).exists() else None
    length = {key: config[key] for key in LENGTH if key in config}
    if there is None:
        digests.write_text(path, CONFIG, config_file.text_of(kind, config))
    file = path / ENVIRONMENT
    try:
        launches = list(strict_json(read_bytes(file))["launches"]) if file.exists() else []
    except (ValueError, KeyError, TypeError):  # broken by hand: it records, nothing depends on it
        launches = []
    steps = {"before": (there or {}).get("steps"), "after": length.get("steps")}
    launches.append(environment() | {"chosen": dict(chosen or {})} | ({"steps": steps} if length else {}))
    digests.write_text(path, ENVIRONMENT, json_text({"launches": launches}, indent=2) + "\n")
    if there is not None and any(there.get(key) != value for key, value in length.items()):
        digests.write_text(path, CONFIG, config_file.text_of(kind, {**there, **length}))


def take_as_it_is(path: Path) -> str | None:
    """Make the manifest of a run that has lost it, of the files as they lie there; what to say of it, if anything."""
    if not (path / CONFIG).exists() or (path / digests.MANIFEST).exists() or not _names_a_format(path / CONFIG):
        return None
    digests.note(path, [name for name in WRITTEN_ONCE if (path / name).exists()])
    if not (path / "checkpoints").exists():
        return None  # a launch was interrupted before its first step
    return f"{path / digests.MANIFEST} was missing: what lies there is taken as it is, and no change of it before now is seen."


def _names_a_format(file: Path) -> bool:
    return f"{config_file.FORMAT}:".encode() in file.read_bytes()


def save_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer's files into the run."""
    tokenizers.save(tokenizer, path / TOKENIZER)
    digests.note(path, [TOKENIZER])


def load_tokenizer(path: Path, field: str = "run") -> Tokenizer:
    """The run's tokenizer."""
    way_out = f"restore it from a copy, or delete {path / TOKENIZER}: the command that began the run writes it again"
    check_written(path, TOKENIZER, way_out)
    return tokenizers.load(path / TOKENIZER, field)


def check_written(path: Path, name: str, way_out: str = WRITTEN_AGAIN) -> None:
    """Raise `Damaged` where a file of the run, or in a folder of it, is not what was written. Older runs have no digests."""
    if config_file.has_digests(path):
        digests.check(path, name, way_out)


def numerics() -> dict[str, Any]:
    """The settings of JAX that change results and are in no config, where they are not JAX's own."""
    return {name: value for name, usual in NUMERICS.items() if (value := getattr(jax.config, name)) != usual}


def check_numerics(path: Path) -> None:
    """Refuse to go on with a run under other settings of JAX than it was begun with. Writes nothing."""
    if (path / ENVIRONMENT).exists():
        check_written(path, ENVIRONMENT)
    elif (path / MODEL).exists():
        say(f"{path / ENVIRONMENT} is missing: under which settings of JAX the run was begun is not known.")
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


def last_chosen(path: Path) -> dict[str, Any]:
    """Choices of the last launch of this run where the config leaves it open; nothing where it is not known."""
    try:
        return dict(json.loads((path / ENVIRONMENT).read_bytes())["launches"][-1]["chosen"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}


def circumstances_note(path: Path, chosen: Mapping[str, Any]) -> str | None:
    """A sentence for the launch on other circumstances; None where there is nothing to say."""
    if (other := other_circumstances(path, chosen)) is None:
        return None
    return f"Other circumstances than at the last launch: {other}. The same steps may differ in their last digits."


def environment() -> dict[str, Any]:
    """Command line, versions, devices, settings and commit of this process."""
    return {
        "command": command(),
        "python": platform.python_version(),
        "versions": {"kljax": __version__, **{name: version(name) for name in RECORDED_VERSIONS}},
        "devices": [str(device) for device in jax.devices()],
        "numerics": numerics(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "platform": platform.platform(),
        "git_commit": git("rev-parse", "HEAD"),
    }


def command() -> list[str]:
    """The command line of this process, after `python`: a script's file, or -m and a module, and what is given to it."""
    if sys.argv[0].startswith("kljax "):  # the console command, which is python -m kljax
        return ["-m", *sys.argv[0].split(), *sys.argv[1:]]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return sys.argv if module is None else ["-m", module.name.removesuffix(".__main__"), *sys.argv[1:]]


def git(*arguments: str) -> str | None:
    """The answer of git about this code; None where there is no git or nothing to say, or where this is no checkout.

    An installed package may lie within a repository of somebody else's.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=root, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None


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
    digests.write_text(path, MODEL, json_text(values, indent=2) + "\n")


def has_start(path: Path) -> bool:
    """Whether the run has kept the model that its policy started from, beside its reference."""
    with _reading_model(path):
        return bool(strict_json(read_bytes(path / MODEL))["reference"].get("start", False))


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
    return generation_settings.of_tokenizer(load_tokenizer(path)).ends


@contextmanager
def _reading_model(path: Path) -> Iterator[None]:
    if not (path / MODEL).exists() and (path / config_file.IDENTITY).exists():
        objective = config_file.read_fit(path)["pretrain"]["objective"]["kind"]
        if objective not in WRITES:
            raise UserError(
                f"run: {path} is a fit of pretrain/objective={objective}, whose model writes no text; expected a language "
                f"model. Its figures are in {path / 'result.json'}, where it is finished."
            )
    if not (path / MODEL).exists():
        raise UserError(f"run: {path / MODEL} is missing; was the run interrupted before its first step?")
    check_written(path, MODEL)
    try:
        yield
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
    if not (path / TOKENIZER).exists():
        return
    there = load_tokenizer(path)
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


def check_logs(path: Path, before: Mapping[str, digests.Digest]) -> None:
    """Raise `Damaged` where a log of the run does not begin as it did when the checkpoint was saved from which it goes on."""
    for name, digest in before.items():
        way_out = "restore it from a copy, or delete it: the log then begins with the step from which the run goes on"
        if (path / name).exists():
            digests.check_beginning(path / name, digest, way_out)
        elif digest["bytes"]:
            say(f"{path / name} is missing: the log begins anew with the step from which the run goes on.")


class JsonLines:
    """An append-only log of objects that have a step."""

    def __init__(self, file: Path, first_step: int):
        """Entries from `first_step` on, and a half-written last line, are what a killed run logged in vain: dropped."""
        if file.exists():
            kept = [line.decode() for line in _lines(file) if _step_of(line) < first_step]
            write_atomically(file, "".join(line + "\n" for line in kept))
        self._stream = Growing(file)

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line, on disk when this returns (in the operating system's hands: it survives SIGKILL)."""
        self._stream.add((json_text(entry) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class MetricsLog:
    """metrics.jsonl, and what is in it to a tracker, the same numbers under the same names. The tracker stays open."""

    def __init__(self, path: Path, first_step: int, tracker: Tracker):
        self._lines = JsonLines(path / "metrics.jsonl", first_step)
        self._tracker = tracker

    def write(self, step: int, metrics: Metrics) -> None:
        """One step's metrics; a number that is not finite becomes null, since JSON has none."""
        self._lines.write({"step": step, **metrics})
        self._tracker.write(step, metrics)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All whole entries of a JSON Lines file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in _lines(file) if _step_of(line) < math.inf]


def check_lines(file: Path) -> None:
    """Refuse a JSON Lines file in whose midst a line is none of ours; the last one may be half written."""
    lines = _lines(file) if file.exists() else []
    for number, line in enumerate(lines[:-1], start=1):
        if _step_of(line) == math.inf:
            raise UserError(f"run: line {number} of {file} cannot be read ({line[:40]!r}…); restore the file from a copy.")


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

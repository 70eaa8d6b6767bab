"""How a Hugging Face directory asks for its text to be written: which tokens end it, how it is sampled, what is forbidden.

That is in generation_config.json, and in the config.json of older models, whose fields transformers still follows. Each field
is used, refused or reported as not followed; only those that change no distribution are passed over. The tables are at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kljax import reading
from kljax.config import RolloutConfig
from kljax.errors import UserError, did_you_mean
from kljax.json_text import shown
from kljax.types import Tokenizer

FILES = FILE, OLDER = "generation_config.json", "config.json"
TOKENIZER = "the tokenizer"
LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class GenerationSettings:
    """The ids that end a completion, in increasing order and at least one, and what says so: a file's name or TOKENIZER.

    `asked` is what the files ask for beside: field → (file, value), without what changes nothing.
    """

    ends: tuple[int, ...]
    source: str
    asked: Mapping[str, tuple[str, Any]]

    def not_followed(self, rollout: RolloutConfig) -> dict[str, Any]:
        """The fields that ask for something else than what the run does, with their values."""
        run = sampling(rollout)
        return {field: value for field, (_, value) in self.asked.items() if field not in run or run[field] != value}


def of_tokenizer(tokenizer: Tokenizer) -> GenerationSettings:
    """Those of a model without such files: the tokenizer's own end token ends a completion."""
    return GenerationSettings((int(tokenizer.eos_token_id),), TOKENIZER, {})  # pyright: ignore


def read(folder: Path, tokenizer: Tokenizer, vocab_size: int, field: str) -> GenerationSettings:
    """Settings by the directory's files; the tokenizer's own end token where they name none. `field` is how messages begin.

    UserError where generation_config.json cannot be read, an end is no token of the model, or a field forces or forbids tokens
    or ends completions in a way that kljax has not.
    """
    said = _said(folder, field)
    for key, (file, value) in said.items():
        if key in REFUSED and value not in REFUSED[key].off:
            raise UserError(
                f"{field}: '{folder / file}' has {key}={_shown(value)}: it {REFUSED[key].because}, which kljax does not "
                "do; to train without it, delete the field from the file (in a copy of the directory, if others need it)."
            )
    settings = of_tokenizer(tokenizer)
    if "eos_token_id" in said:
        file, value = said["eos_token_id"]
        settings = GenerationSettings(_ids(value, vocab_size, f"{field}: '{folder / file}'"), file, {})
    known = REFUSED.keys() | CHANGES_NO_DISTRIBUTION | {"eos_token_id"}
    asked = {key: (file, value) for key, (file, value) in said.items() if key not in known and value not in LACKED.get(key, ())}
    return GenerationSettings(settings.ends, settings.source, asked)


def sampling(rollout: RolloutConfig) -> dict[str, Any]:
    """The run's distribution as the fields of generation_config.json say it."""
    if rollout.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": float(rollout.temperature), "top_k": 0, "top_p": 1.0}


def to_json(tokenizer: Tokenizer, ends: Sequence[int] = (), rollout: RolloutConfig | None = None) -> dict[str, Any]:
    """The generation_config.json of a decoder that ends with `ends` (none: the tokenizer's own) and samples as `rollout`.

    transformers takes the 50 likeliest tokens where top_k is not said: of a policy, everything is.
    """
    ids = sorted(ends or of_tokenizer(tokenizer).ends)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ids[0] if len(ids) == 1 else ids}
    return special | {"pad_token_id": tokenizer.pad_token_id} | ({} if rollout is None else sampling(rollout))


def sentences(settings: GenerationSettings, tokenizer: Tokenizer, rollout: RolloutConfig) -> Iterator[str]:
    """Sentences for a launch: the ends, whether the tokenizer's own is among them, and what the run does not follow."""
    yield f"A completion ends with {spelled(settings.ends, tokenizer)}, as {settings.source} says."
    own = of_tokenizer(tokenizer).ends
    if not set(own) <= set(settings.ends):
        yield f"Warning: the tokenizer's own end token, {spelled(own, tokenizer)}, is not among them: it ends no completion."
    left = settings.not_followed(rollout)
    if known := [key for key in left if key in FIELDS]:
        run = f"by rollout.temperature={rollout.temperature:g} alone, from all tokens"
        yield f"This run does not follow {_by_file(settings, known)}: it samples {run}."
    if unknown := [key for key in left if key not in FIELDS]:
        hints = {did_you_mean(key, ("eos_token_id", *sampling(rollout))) for key in unknown}
        yield f"Unknown here, and without effect: {_by_file(settings, unknown)}.{''.join(sorted(hints))}"


def spelled(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The tokens as text, each with its id."""
    return _listed([_spelled(i, tokenizer) for i in ids], "or")


def _by_file(settings: GenerationSettings, keys: Sequence[str]) -> str:
    """These fields with their values, and the files that they are from."""
    of = {file: [f"{key}={_shown(settings.asked[key][1])}" for key in keys if settings.asked[key][0] == file] for file in FILES}
    return ", ".join(f"{_listed(texts, 'and')} of {file}" for file, texts in of.items() if texts)


def _spelled(token: int, tokenizer: Tokenizer) -> str:
    if tokenizer.convert_ids_to_tokens(token) is None:
        return f"token {token}, for which the tokenizer has no text"
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    plain = isinstance(text, str) and text.isprintable() and text and " " not in text
    return f"{text if plain else repr(text)} ({token})"


def _listed(texts: Sequence[str], last: str) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def _said(folder: Path, name: str) -> dict[str, tuple[str, Any]]:
    """All fields that are not null, with the file: generation_config.json's before config.json's.

    config.json's are followed by transformers only where the other file is missing; here what it asks for is never lost.
    """
    older = _load(folder / OLDER, name)
    # gpt2 and its like: fields that only transformers' pipelines follow
    tasks = older.get("task_specific_params")
    of_task = tasks.get("text-generation") if isinstance(tasks, dict) else None
    of_task = {key: value for key, value in of_task.items() if key != "eos_token_id"} if isinstance(of_task, dict) else {}
    older = {key: value for key, value in (of_task | older).items() if key in FIELDS}
    both = {OLDER: older, FILE: _load(folder / FILE, name)}
    return {key: (file, value) for file, values in both.items() for key, value in values.items() if value is not None}


def _load(file: Path, name: str) -> dict[str, Any]:
    try:
        values = reading.read_json(file)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: cannot read '{file}' ({error}); expected a JSON object, or no such file.") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: '{file}' holds {_shown(values)}; expected a JSON object, or no such file.")
    return values


def _ids(value: Any, vocab_size: int, where: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise UserError(
            f"{where} has eos_token_id={_shown(value)}, expected the id of a token or a list of them, integers from 0 to "
            f"{vocab_size - 1:,}; correct it, or delete the field, and the next file, or at last the tokenizer, says what ends "
            "a completion."
        )
    return tuple(sorted(set(ids)))


def _shown(value: Any) -> str:
    return shown(value, LONGEST)


@dataclass(frozen=True)
class Refused:
    """Why a field is refused, and the values with which it does nothing."""

    because: str
    off: tuple[Any, ...] = ()


_FORCES, _ENDS = "forces or forbids tokens", "changes where a completion ends"
_SHIFTS = "samples from another distribution than the model's"

REFUSED = {
    "bad_words_ids": Refused(_FORCES, ([],)),
    "suppress_tokens": Refused(_FORCES, ([],)),
    "begin_suppress_tokens": Refused(_FORCES, ([],)),
    "forced_bos_token_id": Refused(_FORCES),
    "force_bos_token_to_be_generated": Refused(_FORCES, (False,)),
    "forced_eos_token_id": Refused(_FORCES),
    "forced_decoder_ids": Refused(_FORCES, ([],)),
    "force_words_ids": Refused(_FORCES),
    "constraints": Refused(_FORCES),
    "prefix_allowed_tokens_fn": Refused(_FORCES),
    "logits_processor": Refused(_FORCES),
    "sequence_bias": Refused(_SHIFTS, ([], {})),
    "watermarking_config": Refused(_SHIFTS),
    "guidance_scale": Refused(_SHIFTS, (1,)),
    "min_length": Refused(_ENDS, (0,)),
    "min_new_tokens": Refused(_ENDS, (0,)),
    "exponential_decay_length_penalty": Refused(_ENDS),
    "stop_strings": Refused(_ENDS, ([],)),
    "stopping_criteria": Refused(_ENDS),
    "max_time": Refused(_ENDS),
}
"""Fields that force or forbid tokens, shift them by rules of their own or end completions, none of which kljax does."""

LACKED: dict[str, tuple[Any, ...]] = {
    "temperature": (),
    "do_sample": (),
    "top_k": (),
    "top_p": (),
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "token_healing": (False,),
    "assistant_ensemble_weight": (),
}
"""Fields of another distribution, with the values of no effect: reported where the run does not do the same."""

CHANGES_NO_DISTRIBUTION = frozenset({
    # which tokens surround a text, how long and how many completions are: the run's own tokenizer and sizes say that
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "max_length", "max_new_tokens", "num_return_sequences",
    # how the same is computed
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "continuous_batching_config", "prefill_chunk_size", "low_memory", "renormalize_logits", "remove_invalid_values",
    # speculative decoding, which keeps the distribution
    "use_mtp", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "speculation_type",
    # what is returned, and who wrote the file
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "transformers_version", "_from_model_config", "_commit_hash",
})  # fmt: skip

FIELDS = REFUSED.keys() | LACKED.keys() | CHANGES_NO_DISTRIBUTION | {"eos_token_id"}
"""All that is known here; of config.json nothing else is looked at."""

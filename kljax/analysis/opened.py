"""A run and a Hugging Face directory as a notebook has them: `load_run`, `load_model`."""

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kljax.analysis.completions import Completions, Drawn
from kljax.analysis.policies import Policy, first, joined, plain
from kljax.analysis.prompting import Prompting, of_run
from kljax.config import Config, DecoderConfig, HuggingFaceModel, MeshConfig
from kljax.config.base import Dtype, NonNegative, Positive, strict
from kljax.config.validation import validate
from kljax.data import tokenizers
from kljax.devices import mesh as meshes
from kljax.devices.state import decoder_architecture
from kljax.errors import UserError
from kljax.models.huggingface import generation_settings
from kljax.models.huggingface import models as huggingface
from kljax.models.sampling import Sampler, sample_jit
from kljax.runs import directory, index
from kljax.runs.best import best_step
from kljax.runs.config_file import BEST, FIT, LATEST, Step, kind_of, read_run_config, run_and_step
from kljax.runs.evaluation_files import load_all
from kljax.runs.looking import evaluation_batches
from kljax.runs.restore import RestoredRun, restore
from kljax.types import Params

if TYPE_CHECKING:
    import pandas as pd

ALONE = MeshConfig(data=1, fsdp=1, tensor=1)
"""One device, however many there are: what a notebook looks at need not divide by any number."""


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run directory, of RL or of a fit. Nothing in it is changed, and its data are not needed."""

    path: Path

    @property
    def config(self) -> Config:
        """Its validated config; of a fit that of the command which made it. UserError where it is there no longer."""
        return read_run_config(self.path)

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, in order; of a fit its best is beside them, as "latest"."""
        _ = self.config
        return index.steps(self.path)

    @property
    def metrics(self) -> "pd.DataFrame":
        """metrics.jsonl: one row a logged step, by `step`, one column a metric; what is no number is NaN.

        `held_out/…` are the looks at held-out prompts while it trained, on the rows of their steps.
        """
        import pandas as pd

        _, file = self.config, self.path / "metrics.jsonl"
        directory.check_lines(file)
        lines = directory.read_lines(file)
        return pd.DataFrame(lines).set_index("step") if lines else pd.DataFrame(index=pd.Index([], name="step"))

    @property
    def evaluations(self) -> "pd.DataFrame":
        """Its evaluations on held-out prompts, by step: their settings (prompts, samples, seed, …) beside the metrics.

        Of a step the run's own comes first, then those of kljax analyze with other settings.
        """
        import pandas as pd

        _ = self.config
        found = [{"step": one["step"], **one.get("settings", {}), **one["metrics"]} for one in load_all(self.path)]
        return pd.DataFrame(found)

    def policy(self, step: Step = LATEST) -> Policy:
        """The policy after so many steps, after the last one (latest), or where held-out prompts were best (best)."""
        return self._policy(step, "policy")

    def reference(self, step: Step = LATEST) -> Policy:
        """The model that the policy is held to: always the same, but where the config lets it move. Of a fit its beginning."""
        return self._policy(step, "reference")

    def base(self, step: Step = LATEST) -> Policy:
        """The model that the policy started from."""
        return self._policy(step, "base")

    def evaluation_completions(self, step: Step = LATEST, *, of: str = "policy") -> Completions:
        """The completions of held-out prompts that the run's own evaluation of this step has looked at: the same noise.

        UserError under other settings of JAX than the run's (jax_enable_x64, …), which make another noise.
        """
        directory.check_numerics(self.path)
        if of not in ("policy", "reference"):
            raise UserError(f"of: got {of!r}, expected policy or reference.")
        restored, model = self._restored(step), self._policy(step, of)
        config = self.config.evaluation
        sampler = replace(model.sampler, samples=config.samples, top_k=config.top_k, top_p=config.top_p)
        parts = []
        for rows, prompts, key in evaluation_batches(restored.setup, restored.held_out_prompts(), config):
            made = sample_jit(model.architecture.graphdef, model.params, prompts, key, sampler)
            parts.append(first(made, len(rows) * config.samples))
        drawn = Drawn(model.identity, model.name, config.seed, sampler.temperature, config.top_k, config.top_p)
        return Completions(joined(parts), config.samples, sampler.scoring_temperature, model.tokenizer, model.name, drawn)

    def _policy(self, step: Step, which: str) -> Policy:
        restored = self._restored(step)
        params, setup = getattr(restored, which), restored.setup
        if params is None:
            raise UserError(f"base: {self.path}, of an older version, has not kept the model that its policy started from.")
        # Models that are one have one name, so that a comparison knows whose samples it is of.
        same = which == "base" and params is restored.reference
        moves = self.config.reference.refresh.kind != "never"
        name = {"policy": f"{self.path}@{restored.step}", "base": f"{self.path} base"}.get(which, f"{self.path} reference")
        if which == "reference" or same:
            name = f"{self.path} reference" + (f"@{restored.step}" if moves else "")
        prompting = of_run(setup.tokenizer, setup.config.data)
        return Policy(name, setup.architecture, params, prompting, setup.sampler(1), setup.decoder.context)

    def _restored(self, step: Step) -> RestoredRun:
        chosen, saved = _checked(step), self.steps
        if chosen in (LATEST, BEST) and saved and kind_of(self.path) != FIT:
            chosen = saved[-1] if chosen == LATEST else best_step(self.path, saved, "step")
        folder = self.path / "checkpoints" / str(chosen)
        with _quietly():
            return self._restore(chosen, folder.stat().st_mtime_ns if folder.exists() else 0)

    @cached_property
    def _restore(self) -> Any:
        """The last two steps stay in memory: the models of one are read once, and again where its files have changed."""
        return lru_cache(maxsize=2)(lambda step, changed: restore(self.path, step, ALONE))

    def __repr__(self) -> str:
        found, config = index.look(self.path), self.config
        kl = f"{config.algorithm}, {config.kl.penalty}, beta {config.kl.beta:g}" if found.kind == "run" else "a fit"
        note = f" ({found.note})" if found.note else ""
        return (
            f"Run {self.path}: {kl}; {found.state} at step {found.step} of {found.steps}{note}\n"
            f"  steps: {', '.join(map(str, self.steps)) or 'none yet'}"
        )


def load_run(path: str | Path) -> Run:
    """Open a run directory, of RL or of a fit.

    Raises:
        UserError: where it is none, or its config cannot be read.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"path: got {path!r}, expected a run directory.")
    if (found := run_and_step(str(path), "path")) is not None and found[0] != Path(path).expanduser():
        raise UserError(f"path: got '{path}', expected the run alone: load_run('{found[0]}').policy({found[1]!r}).")
    run = Run(Path(path).expanduser())
    _ = run.config
    return run


def _checked(step: Any) -> Step:
    """A step of a user's: a number, latest or best."""
    if isinstance(step, str) and step in (LATEST, BEST):
        return LATEST if step == LATEST else BEST
    try:
        return operator.index(step)  # pyright: ignore
    except TypeError:
        raise UserError(f"step: got {step!r}, expected the number of a step, latest or best.") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from advising everyone to install PyTorch, which nothing here needs, when it is first imported."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@strict
class _Loaded:
    dtype: Dtype
    temperature: NonNegative
    max_new_tokens: Positive
    context: Positive | None


def load_model(
    path: str | Path,
    *,
    revision: str | None = None,
    base: str | None = None,
    dtype: Dtype = "float32",
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    context: int | None = None,
    begins: bool = True,
) -> Policy:
    """A language model from a Hugging Face directory or hub name, or a LoRA of PEFT's; or of a run, as in runs/x@40.

    Args:
        path: the directory, hub name or run.
        revision: of a hub name: branch, tag or commit.
        base: the model under a LoRA of PEFT's, where it is not the one that the adapter names.
        dtype: of parameters and activations; log-probs are float32.
        temperature: of sampling and scoring, where a call says nothing else; None: the run's, or 1.
        max_new_tokens: the most that a completion has, likewise; None: the run's, or 64.
        context: the longest sequence; None: the model's own.
        begins: whether a text has the beginning token before it, as in runs of such a model.

    Raises:
        UserError: where it cannot be read, or is of an architecture that kljax has not.
    """
    asked = {"temperature": plain(temperature), "max_new_tokens": plain(max_new_tokens)}
    own = {name: value for name, value in asked.items() if value is not None}
    how = validate({"temperature": 1.0, "max_new_tokens": 64, "dtype": dtype, "context": plain(context)} | own, _Loaded)
    if (found := run_and_step(str(path), "path")) is not None:
        for name, given in (("revision", revision), ("base", base), ("context", context)):
            if given is not None:
                raise UserError(f"{name}: got {given!r} for the run {path}, which has none to choose; expected None.")
        if dtype != "float32" or not begins:
            raise UserError(f"{path} is a run, whose types and prompts are its own; expected dtype and begins left out.")
        model = load_run(found[0]).policy(found[1])
        return replace(model, sampler=replace(model.sampler, **{name: getattr(how, name) for name in own}))
    with _quietly():
        return _from_files(str(path), revision, base, how, begins)


def _from_files(path: str, revision: str | None, base: str | None, how: _Loaded, begins: bool) -> Policy:
    source = HuggingFaceModel(
        kind="huggingface", path=path, revision=revision, base=base, context=how.context, dropout=0.0, dtype=how.dtype,
        param_dtype=how.dtype, remat="none", logit_chunk=16, vocab_chunk=None,
    )  # fmt: skip
    pretrained = huggingface.describe(source, "path")
    if not isinstance(model := pretrained.config, DecoderConfig):
        raise UserError(f"path: '{path}' is an encoder, which writes no text; expected a decoder, such as a GPT-2 or Llama.")
    tokenizer = tokenizers.load(pretrained.tokenizer_path, "path")
    huggingface.check_tokenizer(pretrained, tokenizer, "path")
    settings = generation_settings.read(pretrained.path, tokenizer, pretrained.vocab_size, "path")
    architecture = decoder_architecture(model, pretrained.vocab_size, meshes.build(ALONE))
    params: Params = huggingface.load_params(pretrained, "decoder", architecture.shapes, architecture.shardings)
    sampler = Sampler(1, how.max_new_tokens, how.temperature, 0, 1.0, settings.ends, tokenizer.pad_token_id)  # pyright: ignore
    name = path + (f" ({', '.join(beside)})" if (beside := _beside(revision, base, how.dtype)) else "")
    return Policy(name, architecture, params, Prompting(tokenizer, begins=begins), sampler, model.context)


def _beside(revision: str | None, base: str | None, dtype: str) -> list[str]:
    """Words that tell two models of one path from one another."""
    return [*([revision] if revision else []), *([f"on {base}"] if base else []), *([dtype] if dtype != "float32" else [])]

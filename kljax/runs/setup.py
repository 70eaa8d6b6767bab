"""Everything that a config asks for, made ready and checked before anything compiles: text, tokenizer, prompts, mesh, model."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import jax
from jax.sharding import Mesh

from kljax.config import (
    WRITES,
    Config,
    DecoderConfig,
    EncoderConfig,
    HuggingFaceModel,
    PretrainedTokenizer,
    RewardTerm,
    Target,
    TextTask,
    to_dict,
)
from kljax.config.run import BASES
from kljax.config.validation import check_lengths, without_defaults
from kljax.data import tokenizers
from kljax.data.batches import PromptRows, prompt_rows
from kljax.data.plain_files import Say
from kljax.data.text import Splits, is_conversation, load_splits, silent, whole_column
from kljax.devices import mesh as meshes
from kljax.devices.resources import check_jax, divide_cpu
from kljax.devices.state import Architecture, decoder_architecture
from kljax.errors import UserError
from kljax.json_text import key_text
from kljax.models.huggingface import generation_settings
from kljax.models.huggingface import models as huggingface
from kljax.models.huggingface.generation_settings import GenerationSettings
from kljax.models.sampling import Sampler
from kljax.progress import say, working
from kljax.runs import config_file, directory, trackers
from kljax.runs.models import as_directory
from kljax.tasks import rows as task_rows
from kljax.tasks.task import Task
from kljax.types import Tokenizer

TASK = "task"  # the function of a reward term that is the task's own
PROBE = 2**17  # bytes: a disk that has no room for them has none for a program
HASHED_AT_ONCE = 1000  # rows: one by one, `datasets` takes ten times as long


@dataclass(frozen=True)
class Setup:
    """The ingredients that base model, RLHF and analysis share.

    `pretrained` is where the model's weights are, if anywhere; `generation` says which tokens end a completion; `made_prompts`
    are those to train on, where they have been made already; `imports`: whether code of the user's own, which the config names,
    may be imported and run. That of a run directory, which anybody may have sent, is not unasked.
    """

    config: Config
    mesh: Mesh
    loaded: Splits | None  # None: not yet; a run that is looked at needs none of its data
    tokenizer: Tokenizer
    model: DecoderConfig | EncoderConfig
    vocab_size: int
    pretrained: huggingface.Pretrained | None
    generation: GenerationSettings
    made_prompts: PromptRows | None = None
    imports: bool = True

    @cached_property
    def splits(self) -> Splits:
        """The rows of the config's data."""
        return _splits(self.config, self.task, silent) if self.loaded is None else self.loaded

    @cached_property
    def task(self) -> Task | None:
        """The config's task; of a task of the user's own, its code is imported here, or a `UserError` where it may not be."""
        if not self.imports and task_rows.is_own(self.config):
            raise UserError(
                f"task.function: {self.config.task.function} is code of the run's own, of which its rows and figures are made; "  # pyright: ignore
                "it is imported and run where it is asked for alone (kljax analyze … rewards=custom)."
            )
        return task_rows.task_of(self.config)

    def own_rewards(self, terms: Mapping[str, RewardTerm]) -> dict[str, Callable[..., Any]]:
        """The functions that reward=task stands for in these terms. The task, which may be code of the user's, is found where
        one asks."""
        if all(term.function != TASK for term in terms.values()) or self.task is None:
            return {}
        if self.task.reward is None:
            raise UserError(f"reward: the task '{self.config.task.function}' has no reward of its own, expected another.")  # pyright: ignore
        return {TASK: self.task.reward}

    @property
    def decoder(self) -> DecoderConfig:
        """The model's parts; an encoder writes no text."""
        if isinstance(self.model, EncoderConfig):
            raise UserError(
                "model: got an encoder, which writes no text; expected a decoder, such as model=gpt2. Encoders are for "
                "kljax pretrain with pretrain/objective=classification, regression, masked_token, preference or "
                "rated_pairs."
            )
        return self.model

    @cached_property
    def architecture(self) -> Architecture:
        """The decoder without its parameters."""
        return decoder_architecture(self.decoder, self.vocab_size, self.mesh)

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of the rows that a fit sees."""
        digest = hashlib.sha256()
        for split in (self.splits.train, self.splits.held_out, self.splits.test):
            for some in [] if split is None else split.iter(HASHED_AT_ONCE):  # every column: labels and ratings, too
                digest.update(repr(some).encode())
        return digest.hexdigest()

    def prompts(self) -> PromptRows:
        """Prompts to train on."""
        return self._prompts(self.splits.prompts, "prompts") if self.made_prompts is None else self.made_prompts

    def held_out_prompts(self) -> PromptRows:
        """Prompts that no training step sees."""
        return self._held_out_prompts

    @cached_property
    def _held_out_prompts(self) -> PromptRows:
        """Made once: what is left out is said once."""
        return self._prompts(self.splits.held_out, "held-out prompts")

    def _prompts(self, rows: datasets.Dataset, part: str) -> PromptRows:
        data = self.config.data
        with working("encoding the prompts"):
            return prompt_rows(self.tokenizer, rows, data.prompt, data.seed, self.splits.column, say, part)

    def texts(self, rows: datasets.Dataset) -> list[str]:
        """The texts of some rows of the splits; conversations are none."""
        values = whole_column(rows, self.splits.column)
        if values and is_conversation(values[0]):
            raise UserError(
                f"data.source.column: '{self.splits.column}' holds conversations, expected texts: pretrain/objective="
                f"{self.config.pretrain.objective.kind} and tokenizer={self.config.tokenizer.kind} work on them."
            )
        return values

    def sampler(self, samples: int) -> Sampler:
        """The config's way of sampling, `samples` completions a prompt: whole, as where top-k or top-p cut the distribution
        that is sampled it would not be the one that is scored, and no KL that is logged would be of the policy that acts.
        """
        rollout = self.config.rollout
        return Sampler(
            samples=samples,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_k=0,
            top_p=1.0,
            eos_ids=self.generation.ends,
            pad_id=self.tokenizer.pad_token_id,  # pyright: ignore
            cache_dtype=rollout.cache_dtype,
        )


def prepare(config: Config) -> Setup:
    """Load the data, build or load the tokenizer, lay out the mesh, look at the model; refuse what does not fit."""
    trackers.check(config.track)
    mesh = meshes.build(config.mesh)
    pretrained = None
    if isinstance(config.model, HuggingFaceModel):
        source = replace(config.model, path=as_directory(config.model.path, "model.path", mesh))
        with working(f"looking at the files of {source.path}"):
            pretrained = huggingface.describe(source)
    with working("reading the data"):
        splits = _splits(config, task_rows.task_of(config), say)
    # Without need of one, a tokenizer that is trained here has no mask token: the policy could write it.
    masks = config.pretrain.objective.kind == "masked_token" or config.pretrain.augmentation.mask > 0
    special = tokenizers.SPECIAL | (tokenizers.MASK if masks else {})
    with working("making the tokenizer" if pretrained is None else "reading the tokenizer"):
        tokenizer = tokenizers.build(config.tokenizer, _to_train_on(config, splits), special)
    return make_setup(config, mesh, splits, tokenizer, pretrained)


def _splits(config: Config, task: Task | None, say: Say) -> Splits:
    """The rows of the config's data, as its task makes them, if it has one."""
    if task is None:
        return load_splits(config.data, say)
    assert isinstance(config.task, TextTask)
    return load_splits(config.data, say, partial(task_rows.apply, task, config.task.function, say=say))


def _to_train_on(config: Config, splits: Splits) -> list[str]:
    """Texts that a tokenizer is trained on; one that comes with files needs nothing."""
    if isinstance(config.tokenizer, PretrainedTokenizer):
        return []
    values = whole_column(splits.train, splits.column)
    if is_conversation(values[0]):
        raise UserError(
            f"tokenizer: got {config.tokenizer.kind} for conversations, expected a tokenizer with a chat template "
            "(tokenizer=pretrained)."
        )
    answers = _answers_in(config, splits)
    more = [] if answers is None else whole_column(splits.train, answers)
    return [*values, *(text for text in more if isinstance(text, str) and text)]


def _answers_in(config: Config, splits: Splits) -> str | None:
    """The column of answers that are written, too: a task's, or that of pretrain/objective=target."""
    objective = config.pretrain.objective
    if isinstance(objective, Target) and objective.column in splits.train.column_names:
        return objective.column
    of_task = splits.column == task_rows.PROMPT and config.task.kind != "none"
    return task_rows.TARGET if of_task and task_rows.TARGET in splits.train.column_names else None


def make_setup(
    config: Config,
    mesh: Mesh,
    splits: Splits,
    tokenizer: Tokenizer,
    pretrained: huggingface.Pretrained | None,
) -> Setup:
    """The ingredients, their sizes checked."""
    if pretrained is not None:
        model, vocab_size = pretrained.config, pretrained.vocab_size
        huggingface.check_tokenizer(pretrained, tokenizer)
        tokenizers.check_same(pretrained.tokenizer_path, tokenizer, "tokenizer")
        check_lengths(config, model.context)
    else:
        assert not isinstance(config.model, HuggingFaceModel)
        model, vocab_size = config.model, tokenizers.size(tokenizer)
    meshes.check_sizes(config, model, vocab_size, mesh)
    return Setup(config, mesh, splits, tokenizer, model, vocab_size, pretrained, _generation(config, tokenizer, pretrained))


def _generation(config: Config, tokenizer: Tokenizer, pretrained: huggingface.Pretrained | None) -> GenerationSettings:
    """Of a model that comes with its files, what these say, where it is to write."""
    writes = config.pretrain.objective.kind in WRITES and isinstance(pretrained and pretrained.config, DecoderConfig)
    if pretrained is None or not writes:
        return generation_settings.of_tokenizer(tokenizer)
    folder = pretrained.path
    if pretrained.adapter is not None and (pretrained.adapter.path / generation_settings.FILE).exists():
        folder = pretrained.adapter.path
    return generation_settings.read(folder, tokenizer, pretrained.vocab_size, "model.path")


def set_up_process(config: Config) -> None:
    """Apply what the config says of this process as a whole. Before the first use of a device."""
    divide_cpu(config)
    check_jax()
    use_compilation_cache(config.run.compilation_cache)


def use_compilation_cache(folder: str) -> None:
    """Keep compiled programs on disk, so that a second launch starts fast; where that cannot be, say so and go on without."""
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(PROBE))
    except OSError as error:
        say(f"run.compilation_cache: {place} cannot be written ({error.strerror}); each launch compiles its programs anew.")
        jax.config.update("jax_compilation_cache_dir", None)
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a launch has some thirty small ones, 30 ms each


def base_path(setup: Setup) -> Path:
    """Where the config's base model lies: its name tells the text, tokenizer, model and recipe that it was made from."""
    digest = hashlib.sha256(key_text(without_defaults(base_identity(setup))).encode())
    return Path(setup.config.run.root) / BASES / f"{setup.config.name}-{digest.hexdigest()[:8]}"


def is_as_it_is(setup: Setup) -> bool:
    """Whether RL starts from an imported model as its files have it: nothing is fitted, and no copy of it is kept."""
    return setup.pretrained is not None and not setup.config.pretrain.steps


def fits_in_float32(setup: Setup) -> bool:
    """Whether a fit holds its parameters otherwise than the model is held later, when they are frozen."""
    return setup.config.pretrain.steps > 0 and setup.model.param_dtype != "float32"


def base_identity(setup: Setup) -> dict[str, Any]:
    """All that the base model depends on."""
    values = to_dict(setup.config)
    prompted = setup.config.pretrain.objective.kind == "target"  # other fits read texts, whatever the prompts of RL are
    data = {key: value for key, value in values["data"].items() if key != "prompt" or prompted}
    weights = {} if setup.pretrained is None else {"weights": setup.pretrained.fingerprint}
    template = {"template": setup.tokenizer.chat_template} if setup.config.data.prompt.kind == "chat" else {}
    # Of conversations without a column of answers a task's own are taken in the place of those with which they end.
    objective, of_task = setup.config.pretrain.objective, setup.config.task.kind != "none"
    answers = {"answers": "task"} if isinstance(objective, Target) and objective.column is None and of_task else {}
    asked = {"ends": list(setup.generation.ends)} | template | answers if prompted else {}  # around prompts, and answers
    numerics = {"numerics": found} if (found := directory.numerics()) else {}
    if fits_in_float32(setup):  # older versions have fitted these in lower precision
        numerics |= {"fitted_in": "float32"}
    return (
        {"format": config_file.NOW, "data": data, "rows": setup.rows_digest}
        | numerics
        | weights
        | asked
        | {key: values[key] for key in ("tokenizer", "model", "pretrain")}
    )

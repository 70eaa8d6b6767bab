"""An evaluation's figures of the task: of each model's completions, however they are read, and of the right answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from kljax.config import Config, EvaluationConfig, TextTask
from kljax.config.task import Reading
from kljax.data.answered import Answered, answered, end_of_answer
from kljax.data.batches import PromptRows
from kljax.data.labelled import take
from kljax.data.text import whole_column
from kljax.devices.mesh import batch_sharding
from kljax.errors import UserError
from kljax.kl.sequences import masked_sum
from kljax.models.scoring import token_logp
from kljax.runs.intervals import clustered, numbered
from kljax.runs.looking import Sequences, look_at
from kljax.runs.restore import RestoredRun
from kljax.tasks.figures import Read, best_of, figures
from kljax.tasks.measuring import Measured
from kljax.tasks.rows import TARGET, is_own
from kljax.tasks.task import Task
from kljax.types import Params

ANSWERS = {"answers/nats_seq": "−log p(right answer), nats/seq", "answers/nats_tok": "−log p(right answer), nats/tok"}
"""Figures of the right answers: their forward KL to a model, up to their entropy."""
READ = re.compile(r"task/(greedy|best_of_\d+)_")
"""How names of other readings than the sampled begin."""
OF_100 = ("bleu", "chrf")
"""sacrebleu's figures, whose scale is from 0 to 100."""
OTHERS = re.compile(r"[^/]*/(reference|base)_.*|.*_(se|low|high)", re.DOTALL)
"""Names of other models' figures, and of errors."""


def read_as(run: RestoredRun, asked: Sequence[Reading] | None, samples: int) -> tuple[RestoredRun, list[Reading]]:
    """The run with the `task.readings` that are asked for, and these where they are not the run's own.

    Raises:
        UserError: where there would be no figures of a task: the run has none, its own may not be imported, or of one of the
            `samples` of a prompt none is the best.
    """
    if asked is None:
        return run, []
    config = run.setup.config
    if not isinstance(config.task, TextTask):
        raise UserError("readings: this run has no task, whose figures they are of; leave readings out.")
    if is_own(config) and not run.setup.imports:
        raise UserError(
            f"readings: the task of this run is code of its own, task.function={config.task.function}, which is imported and "
            "run with rewards=custom alone."
        )
    if set(asked) == {"best_of_n"} and samples == 1:
        raise UserError(
            "readings: got best_of_n alone, but with one sample a prompt there is nothing to choose from; samples=4."
        )
    readings: list[Any] = [reading for reading in get_args(Reading) if reading in asked]
    if set(readings) == set(config.task.readings):
        return run, []
    other = replace(config, task=replace(config.task, readings=readings))
    return replace(run, setup=replace(run.setup, config=other)), readings


def of_task(
    run: RestoredRun,
    task: Task,
    config: EvaluationConfig,
    models: Mapping[str, Params],
    found: Mapping[str, Sequences],
    prompts: PromptRows,
    ids: list[str],
) -> dict[str, dict[str, float]]:
    """The task's figures of each model; completions of prompts with the same of `ids` are a group."""
    chosen, greedy = run.setup.config.task, {}
    assert isinstance(chosen, TextTask)
    if "greedy" in chosen.readings:
        # By temperature 0: top_k=1 would draw among logits that are equal, which in bfloat16 they often are.
        once, nothing = replace(config, samples=1, top_k=0, top_p=1.0), {*run.setup.config.reward}  # no reward is asked for
        look = look_at(run, prompts, once, nothing, task=task, temperature=0.0)
        greedy = {name: look(params, ()) for name, params in models.items()}
    groups, of_models = numbered(ids), {}
    for name, of in found.items():
        many, read = np.repeat(groups, config.samples), {}
        if "sampled" in chosen.readings:
            read["sampled"] = Read(_measured(of), many)
        if name in greedy:
            read["greedy"] = Read(_measured(greedy[name]), groups)
        if "best_of_n" in chosen.readings and config.samples > 1 and np.isfinite(of.reward).all():
            read["best_of_n"] = best_of(_measured(of), of.reward, config.samples, many)
        of_models[name] = figures(task, chosen, read, config.samples)
    return of_models


def _measured(of: Sequences) -> Measured:
    assert of.measured is not None
    return of.measured


def answers_of(run: RestoredRun, prompts: PromptRows) -> list[str | None] | None:
    """The right answers: the task's, those of the column that was fitted to, or with which the conversations ended."""
    config, objective = run.setup.config, run.setup.config.pretrain.objective
    column = TARGET if config.task.kind != "none" else objective.column if objective.kind == "target" else None
    answers: Any = whole_column(prompts.rows, column) if column in prompts.rows.column_names else prompts.targets
    return None if answers is None or not any(isinstance(text, str) and text.strip() for text in answers) else answers


def nats_of_answers(
    run: RestoredRun, prompts: PromptRows, models: Mapping[str, Params], ids: list[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """−log p(answer | prompt) of each model at temperature 1, its mean a sequence and a token; {} where there are no answers.

    The mean over the data is the forward KL(data‖model) of answers up to their entropy. An answer that the model's context has
    no room for is left out: a sentence, beside the figures, says so.
    """
    setup, count = run.setup, len(ids)
    if (answers := answers_of(run, prompts)) is None:
        return {}, []
    first = replace(prompts, tokens=prompts.tokens[:count], mask=prompts.mask[:count])
    longest = setup.decoder.context
    in_template = setup.config.data.prompt.kind == "chat"
    end = end_of_answer(setup.tokenizer, setup.generation.ends, in_template=in_template)
    rows, kept = answered(setup.tokenizer, first, answers[:count], end, longest)
    notes = []
    if len(kept) < count:
        notes.append(
            f"answers/… is of {len(kept)} of {count} prompts: others have no answer, or one for which the context of {longest} "
            "tokens has no room."
        )
    if not len(kept):
        return {}, notes
    width = int(rows.mask.sum(axis=1).max())
    rows = Answered(rows.tokens[:, :width], rows.mask[:, :width], rows.answer[:, :width])
    program, tokens = _compile(setup.architecture.graphdef), rows.answer.sum(axis=1).astype(np.float64)
    groups, of_models = numbered([ids[i] for i in kept]), {}
    for name, params in models.items():
        nats = _nats(run, program, params, rows)
        each = {"seq": clustered(nats, np.ones_like(nats), groups), "tok": clustered(nats, tokens, groups)}
        of_models[name] = {f"answers/nats_{unit}": found.mean for unit, found in each.items()}
        of_models[name] |= {f"answers/nats_{unit}_se": found.se for unit, found in each.items() if np.isfinite(found.se)}
    return of_models, notes


def labels_of(metrics: Mapping[str, float]) -> dict[str, str]:
    """The figures of the task and of its right answers: their names without model, and what a table calls them.

    Those of each class (f1/positive) of sampled answers alone: of greedy ones and best of n, the file has them.
    """
    ours = [name for name in metrics if name.startswith(("task/", "answers/")) and not OTHERS.fullmatch(name)]
    ours = [name for name in ours if not (READ.match(name) and name.count("/") > 1)]
    return {name: _label(name) for name in sorted(ours, key=lambda name: name in ANSWERS)}


def _label(name: str) -> str:
    """task/best_of_4_rouge_l → rouge_l, best of 4; task/exact_match_pass_4 → exact_match, pass@4."""
    if name in ANSWERS:
        return ANSWERS[name]
    figure = name.removeprefix("task/")
    if found := re.fullmatch(r"(greedy|best_of_\d+)_(.+)", figure):
        return f"{_label('task/' + found[2])}, {found[1].replace('_', ' ')}"
    if figure in OF_100:
        return f"{figure} (of 100)"
    found = re.fullmatch(r"(.+)_pass_(\d+)", figure)
    return f"{found[1]}, pass@{found[2]}" if found else figure


def notes_of_task(config: Config, task: Task, samples: int, *, whole: bool) -> list[str]:
    """Signatures of sacrebleu's figures; readings that were asked for and are not there. `whole`: if the reward is known."""
    signatures = [f"sacrebleu's signature: {one.signature}" for one in task.corpus if one.signature]
    readings = config.task.readings if isinstance(config.task, TextTask) else []
    if "best_of_n" not in readings or (samples > 1 and whole):
        return signatures
    nothing, unknown = (
        "with evaluation.samples=1 there is nothing to choose from",
        "a part of the reward, which chooses, is, too",
    )
    return [*signatures, f"task.readings: best_of_n is left out: {unknown if samples > 1 else nothing}."]


def _compile(graphdef: nnx.GraphDef) -> Callable[[Params, Answered], Any]:
    @jax.jit
    def program(params: Params, rows: Any):
        return -masked_sum(token_logp(nnx.merge(graphdef, params), rows.tokens, rows.mask), rows.answer[:, 1:])

    return program


def _nats(run: RestoredRun, program: Callable[..., Any], params: Params, rows: Answered) -> Float[np.ndarray, "N"]:
    size, total = run.setup.config.rollout.prompts, len(rows.tokens)
    sharding, parts = batch_sharding(run.setup.mesh), []
    for start in range(0, total, size):
        batch = jax.device_put(take(rows, np.arange(start, start + size) % total), sharding)
        parts.append(np.asarray(program(params, batch), np.float64))
    return np.concatenate(parts)[:total]

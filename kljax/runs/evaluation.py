"""Policy, reference and base model on held-out prompts: rewards and exact KLs with standard errors, samples side by side.

KL(pi‖rho) is taken in states that pi visits, KL(rho‖pi) in states that *rho* visits: each is then the KL between the two
distributions over sequences, by the chain rule. Where top-k or top-p cut the sampling, pi is the policy so cut: the one that
samples. The `base` is the model that the policy started from; it has figures of its own where the reference is another one.
"""

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kljax.config import Config, EvaluationConfig, to_dict
from kljax.data.batches import PromptRows
from kljax.errors import UserError
from kljax.progress import working
from kljax.rewards import combination
from kljax.rewards.user_code import custom_terms
from kljax.runs.columns import Column, columns_of, means, of_model, own_columns, without_value
from kljax.runs.config_file import FIT, kind_of
from kljax.runs.enumeration import enumerate_task
from kljax.runs.intervals import numbered
from kljax.runs.looking import Sequences, check_figures, check_parameters, is_whole, look_at
from kljax.runs.regularisation import ablation_note
from kljax.runs.restore import RestoredRun
from kljax.runs.setup import TASK
from kljax.runs.task_figures import answers_of, nats_of_answers, notes_of_task, of_task
from kljax.tasks.rows import is_own

WHEN = ("every", "best")
"""Settings of `evaluation` on which no figure depends."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, what they are of, what a reader must know of them; means by distinct prompt, some samples.

    `settings` are those that were asked for, `of` is what there was. An entry of `by_prompt` has the plain means of a prompt's
    completions by the metric's name, and how many these are.
    """

    step: int
    settings: dict[str, Any]
    of: dict[str, Any]
    metrics: dict[str, float]
    notes: list[str]
    by_prompt: list[dict[str, Any]]
    samples: list[dict[str, Any]]


def evaluate(run: RestoredRun, config: EvaluationConfig, without: Mapping[str, str] = MappingProxyType({})) -> Evaluation:
    """Sample policy, reference and base on the first `config.prompts` held-out prompts and compare them.

    `without`: terms of the reward that are left out, and why. Where one of them has a
    weight, nothing is said of the whole reward. Of a task that may not be imported (`Setup.imports`) there are no figures.

    Raises:
        UserError: where a parameter, a reward, a KL or what a reward logs is not finite.
    """
    began = time.perf_counter()
    models = {"policy": run.policy, "reference": run.reference} | ({"base": run.base} if has_base(run) else {})
    for name, params in models.items():
        check_parameters(run, name, params)
    prompts = run.held_out_prompts()
    task = run.setup.task if run.setup.imports or not is_own(run.setup.config) else None
    look, whole = look_at(run, prompts, config, without, task=task), is_whole(run.setup.config, without)
    others = tuple(params for name, params in models.items() if name != "policy")
    count = min(config.prompts, len(prompts.tokens))
    with working(f"evaluating {' and '.join(models)} on {count} held-out prompts"):
        found = {"policy": look(run.policy, others)}
        found |= {name: look(params, (run.policy,)) for name, params in models.items() if name != "policy"}
    check_figures(run, found, whole=whole)
    ids = _prompt_ids(prompts, len(found["policy"].prompts) // config.samples)
    columns = columns_of(run.setup.config, found)
    if not whole:
        columns = {name: column for name, column in columns.items() if not np.isnan(column[0]).all()}
    metrics = means(columns, np.repeat(numbered(ids), config.samples))
    for name, of in found.items():
        metrics |= {of_model(name, metric): mean for metric, mean in of.logged.items()}
    of_answers, on_answers = nats_of_answers(run, prompts, models, ids)
    of_models = [of_answers, of_task(run, task, config, models, found, prompts, ids) if task else {}]
    for name, metric, value in ((name, *each) for part in of_models for name, of in part.items() for each in of.items()):
        metrics[of_model(name, metric)] = value
    metrics["kl/beta"] = run.beta
    if whole:
        metrics["reward/reference_std"] = float(found["reference"].reward.std(ddof=1))
    if run.setup.config.run.oracle_every and not without:
        trained, terms = run.prompts(), run.setup.config.reward
        own = run.setup.own_rewards(terms)
        reward = combination.build(terms, run.setup.tokenizer, trained.rows.column_names, own)
        metrics |= enumerate_task(run.setup, trained, reward, run.reference).metrics(run.policy, run.beta)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(f"evaluation: {name} is {value} at step {run.step} of {run.path}, expected a finite number.")
    of = _what_of(run, config, ids)
    by_prompt = _by_prompt(columns, ids, found["policy"].prompts, config.samples)
    metrics["time/evaluation"] = time.perf_counter() - began
    said = [
        f"reward.{name}, of weight 0, is no finite number for some completion, and left out."
        for name in sorted(without_value(run.setup.config, found))
    ]
    said += [f"reward.{name} is left out, and with it what it is a part of: {why}" for name, why in without.items()]
    if task is None and is_own(run.setup.config):
        said.append("task: its figures are left out: it is code of the run's own, which is imported with rewards=custom alone.")
    said += on_answers + (notes_of_task(run.setup.config, task, config.samples, whole=whole) if task else [])
    said += notes(run, config, of)
    return Evaluation(
        run.step,
        settings_of(config),
        of,
        metrics,
        said,
        by_prompt,
        _samples(found, config.samples, whole, answers_of(run, prompts)),
    )


def of_policy(config: Config, found: Mapping[str, Sequences], prompts: PromptRows) -> dict[str, float]:
    """Those metrics of an evaluation for which the policy alone has to write anew: no forward KL, nothing of other models."""
    columns = columns_of(config, found)
    theirs = {of_model(name, metric) for name in found if name != "policy" for metric in own_columns(config, found, name)}
    ours = {name: column for name, column in columns.items() if name not in theirs and not name.startswith("kl/forward_")}
    ids = _prompt_ids(prompts, len(found["policy"].prompts) // config.evaluation.samples)
    metrics = means(ours, np.repeat(numbered(ids), config.evaluation.samples))
    return metrics | found["policy"].logged


def settings_of(config: EvaluationConfig) -> dict[str, Any]:
    """The settings that its figures depend on, not when it is made."""
    return {name: value for name, value in to_dict(config).items() if name not in WHEN}


def left_out(run: RestoredRun, *, custom: bool) -> dict[str, str]:
    """The terms of the reward that cannot be computed, and why: code of the run's own, unless it is wanted (`custom`).

    Of a fit, which no reward has changed, also what does not go with its texts: the config may have said nothing of rewards.
    """
    terms = run.setup.config.reward
    found = {} if custom else custom_terms(terms)
    if not custom and is_own(run.setup.config):
        if kind_of(run.path) == FIT:
            raise UserError(
                "rewards: the prompts of this fit are made by code of its own, task.function="
                f"{run.setup.config.task.function}, which is imported and run with rewards=custom alone."  # pyright: ignore
            )
        found |= {
            name: "it is the task's own, which is code of the run's own."
            for name, term in terms.items()
            if term.function == TASK
        }
    if kind_of(run.path) != FIT:
        return found
    rest = {name: term for name, term in terms.items() if name not in found}
    try:
        own = run.setup.own_rewards(rest)
        combination.build(rest, run.setup.tokenizer, run.held_out_prompts().rows.column_names, own)
    except UserError as error:
        return found | dict.fromkeys(rest, str(error))
    return found


def groups_of(of: Mapping[str, Any]) -> int:
    """How many independent groups the standard errors are of: distinct prompts, or completions of the only one."""
    return of["distinct_prompts"] if of["distinct_prompts"] > 1 else of["prompts"] * of["samples"]


def notes(run: RestoredRun, config: EvaluationConfig, of: Mapping[str, Any]) -> list[str]:
    """Sentences on what the figures do not say of themselves."""
    of_run = run.setup.config
    found = [note] if (note := ablation_note(of_run.kl)) else []
    if kind_of(run.path) == FIT:
        found.append("A fit: its reference is the model that it started from.")
    if config.top_k or config.top_p < 1:
        found.append(
            f"evaluation.top_k={config.top_k}, top_p={config.top_p:g}: tokens are drawn from distributions that are cut; every "
            "KL is that of the cut, renormalised distribution to the other model's whole one."
        )
    if of_run.reward_scale != "none":
        found.append(f"reward_scale={of_run.reward_scale} rescales beta; kl/beta_effective in metrics.jsonl is what acts.")
    if (kind := of_run.reference.refresh.kind) != "never":
        found.append(f"reference.refresh={kind}: the reference is the one in force in step {max(run.step - 1, 0)}.")
    if run.base is None:
        found.append("The base model is not kept in this run, which an older version made: nothing is said of it.")
    if of["prompts"] < config.prompts:
        found.append(f"evaluation.prompts={config.prompts}, and there are {of['prompts']} held-out prompts; each is used.")
    if of["distinct_prompts"] == 1:
        found.append("All prompts are the same: errors are those of its completions.")
    return found


def _prompt_ids(prompts: PromptRows, count: int) -> list[str]:
    """A digest of the tokens of each prompt, by which it is known."""
    rows = zip(prompts.tokens[:count], prompts.mask[:count], strict=True)
    return [hashlib.blake2b(row[mask].tobytes(), digest_size=8).hexdigest() for row, mask in rows]


def _what_of(run: RestoredRun, config: EvaluationConfig, ids: list[str]) -> dict[str, Any]:
    """Describe what the figures are of: how many prompts and completions, by which noise, sampled how."""
    rollout = run.setup.config.rollout
    return {
        "prompts": len(ids),
        "distinct_prompts": len(set(ids)),
        "samples": config.samples,
        "seed": config.seed,
        "run_seed": run.setup.config.seed,
        "temperature": rollout.temperature,
        "max_new_tokens": rollout.max_new_tokens,
        "top_k": config.top_k,
        "top_p": config.top_p,
    }


def _by_prompt(columns: Mapping[str, Column], ids: list[str], prompts: list[str], samples: int) -> list[dict[str, Any]]:
    groups = np.repeat(numbered(ids), samples)
    counts = np.bincount(groups)
    means = {name: np.bincount(groups, values) / counts for name, (values, weights) in columns.items() if weights is None}
    first = {prompt: row for row, prompt in reversed(list(enumerate(ids)))}
    return [
        {"prompt": prompts[first[prompt] * samples], "id": prompt, "completions": int(counts[group])}
        | {name: float(each[group]) for name, each in means.items()}
        for group, prompt in enumerate(dict.fromkeys(ids))
    ]


def _samples(
    found: Mapping[str, Sequences], samples: int, whole: bool, answers: list[str | None] | None
) -> list[dict[str, Any]]:
    """The first completion of each prompt by each model, with its reward and the task's metrics, where these are known."""

    def metrics(name: str, of: Sequences, i: int) -> dict[str, float]:
        each = of.measured.metrics if of.measured else {}
        return {f"{name}_{metric}": float(values[i]) for metric, values in each.items() if not np.isnan(values[i])}

    prompts = found["policy"].prompts
    return [
        {"prompt": prompts[i]}
        | {name: of.completions[i] for name, of in found.items()}
        | ({"answer": answers[i // samples]} if answers else {})
        | {f"{name}_reward": float(of.reward[i]) for name, of in found.items() if whole}
        | {key: value for name, of in found.items() for key, value in metrics(name, of, i).items()}
        for i in range(0, len(prompts), samples)
    ]


def has_base(run: RestoredRun) -> bool:
    """Whether the policy started from another model than the one that it is held to."""
    reference = run.setup.config.reference
    return run.base is not None and (reference.path is not None or reference.refresh.kind != "never")

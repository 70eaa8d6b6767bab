"""Tables and sentences that a script prints when it is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from kljax.analysis.frontier import Point
from kljax.progress import console
from kljax.runs.columns import of_model
from kljax.runs.evaluation import Evaluation, groups_of
from kljax.runs.intervals import LEVEL, OF_FIT, t_quantile
from kljax.runs.task_figures import labels_of

FIGURES = {"reward": "reward/mean", "tokens a completion": "rollout/length"}
"""Label and metric of what each model has."""

COMPARED = {
    # label: metric of the policy and the reference, of the policy and the base
    "reward gained over it": ("reward/gain", "reward/gain_over_base"),
    "KL(policy‖it), nats/seq": ("kl/reverse_exact_seq", "kl/reverse_exact_to_base_seq"),
    "KL(policy‖it), nats/tok": ("kl/reverse_exact_tok", "kl/reverse_exact_to_base_tok"),
    "KL(it‖policy), nats/seq": ("kl/forward_exact_seq", "kl/forward_exact_to_base_seq"),
    "KL(it‖policy), nats/tok": ("kl/forward_exact_tok", "kl/forward_exact_to_base_tok"),
}
"""Metrics of the policy against another model, in that one's column."""

EXACT_ROWS = {
    "oracle/objective": "J(policy): reward − beta·KL, exact",
    "oracle/optimal_objective": "J of the optimum",
    "oracle/kl_to_optimum": "KL(policy‖optimum), nats per sequence",
}
"""Where every completion can be listed."""

HELD_OUT, TEST = "held_out_", "test/"  # how the figures of a fitted model begin

MOST_CLASSES = 12  # of a confusion matrix that is shown; larger ones are in result.json


def show_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Rewards, KLs and length on held-out prompts: policy, reference and, where that is another one, base."""
    metrics, of = evaluation.metrics, evaluation.of
    reach = t_quantile(groups_of(of) - 1)
    others = ["reference", "base"] if "rollout/base_length" in metrics else ["reference"]
    console.print(f"{path}, step {evaluation.step}: {what_of(of)}", soft_wrap=True)
    bootstrap = "; [from, to] is one by bootstrap over prompts" if any(name.endswith("_low") for name in metrics) else ""
    console.print(Text(f"± is a {LEVEL:.0%} interval: {reach:.2f} standard errors{bootstrap}"), soft_wrap=True)
    table = Table()
    for column in ("", "policy", *others):
        table.add_column(column, justify="right" if column else "left")
    terms = [name for name in metrics if name.startswith("reward/terms/") and not name.endswith("_se")]
    figures = FIGURES | {f"reward term {name.rpartition('/')[2]}": name for name in (terms if len(terms) > 1 else [])}
    for label, name in figures.items():
        table.add_row(Text(label), *(_interval(metrics, of_model(model, name), reach) for model in ("policy", *others)))
    for name, label in labels_of(metrics).items():
        table.add_row(Text(label), *(_within(metrics, of_model(model, name), reach) for model in ("policy", *others)))
    for label, names in COMPARED.items():
        table.add_row(label, "", *(_interval(metrics, name, reach) for name in names[: len(others)]))
    for name, label in EXACT_ROWS.items():
        if name in metrics:
            table.add_row(label, f"{metrics[name]:.4f}")
    console.print(table)
    for note in evaluation.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)


def what_of(of: Mapping[str, Any]) -> str:
    """How many samples figures are of, in words."""
    prompts, distinct = of["prompts"], of["distinct_prompts"]
    repeats = "" if distinct == prompts else f" ({distinct} distinct)"
    cut = "".join(f", {name} {of[name]:g}" for name, off in (("top_k", 0), ("top_p", 1)) if of[name] != off)
    each = f"{of['samples']} completion{'s' if of['samples'] > 1 else ''} of each of"
    return f"{each} {prompts} held-out prompts{repeats}, seed {of['seed']}{cut}"


def show_samples(evaluation: Evaluation, count: int) -> None:
    """Some prompts, each with a completion by every model."""
    for sample in evaluation.samples[:count]:
        console.print(Text(f"\n{sample['prompt']!r}"))
        if sample.get("answer") is not None:
            console.print(Text(f"  {'answer':9}  {sample['answer']!r}"))
        for who in ("base", "reference", "policy"):
            if who in sample:
                reward = f"{sample[f'{who}_reward']:+.2f}  " if f"{who}_reward" in sample else ""
                console.print(Text(f"  {who:9}  {reward}{sample[who]!r}"))


def show_base(result: Mapping[str, Any], path: Path) -> None:
    """The figures of a fitted model, held out and on test rows; for classes a confusion matrix, true ones as rows."""
    console.print(f"{path}: held-out figures", soft_wrap=True)
    table = Table()
    for column in ("", "held out", "test")[: 3 if any(name.startswith(TEST) for name in result) else 2]:
        table.add_column(column, justify="right" if column else "left")
    for name, value in result.items():
        if not name.startswith(TEST) and not isinstance(value, list):
            test = TEST + name.removeprefix(HELD_OUT) if name.startswith(HELD_OUT) else ""
            row = [_fitted(result, each) for each in (name, test)]
            table.add_row(name.removeprefix(HELD_OUT), *row[: len(table.columns) - 1])
    console.print(table)
    if any(name.endswith(OF_FIT) for name in result):
        said = f"[low, high]: {LEVEL:.0%} of what other rows from the same source would give (bootstrap)"
        console.print(said, soft_wrap=True, markup=False)
    for prefix, part in ((HELD_OUT, "held out"), (TEST, "test")):
        if f"{prefix}confusion_matrix" in result and len(result["labels"]) <= MOST_CLASSES:
            _show_confusion(result, prefix, part)


def _show_confusion(result: Mapping[str, Any], prefix: str, part: str) -> None:
    """Rows are true classes, columns predicted ones; with more than two, precision, recall and F1 of each."""
    labels = result["labels"]
    of_each = [name for name in ("precision", "recall", "f1") if f"{prefix}{name}_of_each" in result]
    console.print(f"{part}: true class (rows), predicted class (columns)", soft_wrap=True)
    table = Table()
    table.add_column("")
    for name in [*labels, *of_each]:
        table.add_column(Text(name), justify="right")
    for i, label in enumerate(labels):
        counts = [str(number) for number in result[f"{prefix}confusion_matrix"][i]]
        table.add_row(Text(label), *counts, *(f"{result[f'{prefix}{name}_of_each'][i]:.3f}" for name in of_each))
    console.print(table)


def _fitted(result: Mapping[str, Any], name: str) -> Text:
    """A fitted model's figure, with its interval where it has one."""
    low_and_high = result.get(name + OF_FIT)
    reach = "" if low_and_high is None else " [{:.3g}, {:.3g}]".format(*low_and_high)
    return Text(_figure(result.get(name)) + reach)


def _figure(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4g}"


def show_paths(path: Path, track: Sequence[str] = ("tensorboard",)) -> None:
    """List what was written, and how to look at it."""
    board = "tensorboard" in track
    written = ["config.yaml, metrics.jsonl, samples.jsonl", *(["tensorboard/"] if board else []), "checkpoints/, evaluation/"]
    lines = [
        f"Written to {path}: {', '.join(written)}",
        f"  samples and both KLs of any step   kljax analyze run={path} step=…",
        f"  reward against KL over runs        kljax frontier {path.parent}",
        *([f"  curves                             tensorboard --logdir {path.parent}"] if board else []),
    ]
    console.print("\n".join(lines), soft_wrap=True)


def show_frontier(points: Sequence[Point]) -> None:
    """Reward and KL, a table a curve and a row a configuration."""
    first = points[0]
    prompts = sorted({point.prompts for point in points})
    distinct = " or ".join(map(str, prompts))
    console.print(
        f"Reward and KL, nats per sequence: {first.completions_a_prompt} completions of each of {distinct} distinct held-out "
        f"prompts.\n± is half a {first.level:.0%} interval (Student's t) over prompts, and over seeds where there are several.",
        soft_wrap=True,
    )
    for curve in dict.fromkeys(point.curve for point in points):
        line = [point for point in points if point.curve == curve]
        table = Table()
        kls = ["KL to reference", "KL to base"] if line[0].moves else ["KL to reference"]
        for label in (line[0].varied.rpartition(".")[2], "seeds", "step", "reward", *kls):
            table.add_column(label, justify="right")
        for p in line:
            to_base = [_half(p.kl_to_base, p.kl_to_base_high)] if p.moves else []
            row = _half(p.reward, p.reward_high), _half(p.kl, p.kl_high), *to_base
            step = str(p.step) if p.step == p.steps else f"{p.step} of {p.steps}"
            table.add_row(f"{p.value:g}", str(p.seeds), step, *row)
        console.print(f"\n{curve}", soft_wrap=True, markup=False)
        console.print(table)
    if any(point.seeds == 2 for point in points):
        console.print(
            f"Two seeds have one degree of freedom: what of the error is theirs counts {t_quantile(1):.1f} standard errors.",
            soft_wrap=True,
        )


def _within(metrics: Mapping[str, float], name: str, reach: float) -> str:
    """A figure with the ends of its bootstrap interval, or with its error where it has none."""
    if f"{name}_low" in metrics and metrics[f"{name}_low"] == metrics[f"{name}_high"]:
        return f"{metrics[name]:.3f} (all alike)"  # no spread to draw from, which is no certainty
    if f"{name}_low" in metrics:
        return f"{metrics[name]:.3f} [{metrics[f'{name}_low']:.3f}, {metrics[f'{name}_high']:.3f}]"
    return _interval(metrics, name, reach) if f"{name}_se" in metrics or name not in metrics else f"{metrics[name]:.3f}"


def _half(mean: float, high: float) -> str:
    return f"{mean:.3f} ± {high - mean:.3f}"


def _interval(metrics: Mapping[str, float], name: str, reach: float) -> str:
    return f"{metrics[name]:.3f} ± {reach * metrics[f'{name}_se']:.3f}" if name in metrics else "–"

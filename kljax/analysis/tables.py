"""What a script prints when it is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kljax.analysis.evaluation import Evaluation
from kljax.analysis.frontier import Point
from kljax.training.progress import console

ROWS = {
    # metric of the policy: (label, metric of the reference)
    "reward/mean": ("reward", "reward/reference_mean"),
    "kl/reverse_exact_seq": ("KL(policy‖reference), nats per sequence", None),
    "kl/reverse_exact_tok": ("KL(policy‖reference), nats per token", None),
    "kl/forward_exact_seq": ("KL(reference‖policy), nats per sequence", None),
    "kl/forward_exact_tok": ("KL(reference‖policy), nats per token", None),
    "rollout/length": ("tokens a completion", "rollout/reference_length"),
}

EXACT_ROWS = {
    "oracle/objective": "J(policy): reward − beta·KL, exact",
    "oracle/optimal_objective": "J of the optimum",
    "oracle/kl_to_optimum": "KL(policy‖optimum), nats per sequence",
}
"""Where every completion can be listed."""


def show_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Reward, KLs and length on held-out prompts, reference beside policy."""
    table = Table(title=f"{path}, step {evaluation.step}, held-out prompts (± standard error)", title_justify="left")
    table.add_column("")
    table.add_column("reference", justify="right")
    table.add_column("policy", justify="right")
    for name, (label, of_reference) in ROWS.items():
        reference = _with_se(evaluation.metrics, of_reference) if of_reference else "0"
        table.add_row(label, reference, _with_se(evaluation.metrics, name))
    for name, label in EXACT_ROWS.items():
        if name in evaluation.metrics:
            table.add_row(label, "", f"{evaluation.metrics[name]:.4f}")
    console.print(table)
    for note in evaluation.notes:
        console.print(f"Note: {note}", soft_wrap=True)


def show_samples(evaluation: Evaluation, count: int) -> None:
    """Some prompts, each with a completion by the reference and one by the policy."""
    for sample in evaluation.samples[:count]:
        console.print(Text(f"\n{sample['prompt']!r}"))
        for who in ("reference", "policy"):
            console.print(Text(f"  {who:9}  {sample[f'{who}_reward']:+.2f}  {sample[who]!r}"))


def show_base(result: Mapping[str, float | int], path: Path) -> None:
    """The held-out figures of a base model."""
    table = Table(title=f"{path}: held-out figures", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in result.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)


def show_paths(path: Path) -> None:
    """What was written, and how to look at it."""
    lines = [
        f"Written to {path}: config.yaml, metrics.jsonl, samples.jsonl, tensorboard/, checkpoints/, evaluation/",
        f"  samples and both KLs of any step   python experiments/analyze.py run={path} step=…",
        f"  reward against KL over runs        python experiments/frontier.py {path.parent}",
        f"  curves                             tensorboard --logdir {path.parent}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def show_frontier(points: Sequence[Point]) -> None:
    """Reward and KL, a row a configuration."""
    table = Table(title="Reward and KL(policy‖reference) on held-out prompts (± standard error)", title_justify="left")
    table.add_column("run")
    for label in ("beta", "seeds", "step", "reward", "KL, nats/seq"):
        table.add_column(label, justify="right")
    for p in points:
        reward, kl = f"{p.reward:.3f} ± {p.reward_se:.3f}", f"{p.kl:.3f} ± {p.kl_se:.3f}"
        table.add_row(p.curve, f"{p.beta:g}", str(p.seeds), str(p.step), reward, kl)
    console.print(table)


def _with_se(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.3f} ± {metrics[f'{name}_se']:.3f}"

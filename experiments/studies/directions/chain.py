"""The chain that a practitioner runs, from finished runs: a model as it is, fitted to answers, then RL at several betas.

Maximum likelihood minimises the forward KL(data‖model); RL for a reward is held to the fitted model by a reverse KL.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from kljax.config import Config
from kljax.disk import whole_file
from kljax.errors import UserError
from kljax.progress import console, say
from kljax.runs import evaluation_files
from kljax.runs.columns import of_model
from kljax.runs.config_file import CONFIG, FIT, kind_of, read_run_config
from kljax.runs.damaged import read_json
from kljax.runs.digests import FROM_A_COPY, WRITTEN_AGAIN
from kljax.runs.directory import MODEL
from kljax.runs.evaluation import groups_of
from kljax.runs.intervals import t_quantile
from kljax.runs.models import RESULT
from kljax.runs.task_figures import OTHERS, READ
from kljax.tasks.rows import is_own

FIRST = {
    "summarisation": "rouge_l",
    "translation": "bleu",
    "numbers": "exact_match",
    "words": "token_f1",
    "sentiment": "accuracy",
}
"""The figure of a built-in task that a line shows, unless another is asked for."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval; None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return _four(self.value)
        if self.low == self.high:  # no spread to draw from, which is no certainty
            return f"{_four(self.value)} (all alike)"
        return f"{_four(self.value)} [{_four(self.low)}, {_four(self.high)}]"


@dataclass(frozen=True)
class Sample:
    """A completion of a stage, at the run's temperature, beside the right answer."""

    prompt: str
    answer: str | None
    completion: str


@dataclass(frozen=True)
class Link:
    """A stage of the chain of one task. KLs, nats per sequence, are to and from the model of the stage before it."""

    name: str  # of the experiment
    stage: str
    beta: float | None
    metric: str
    sampled: Figure | None
    greedy: Figure | None
    answers_nats_tok: float | None  # −log p(right answer): the forward KL of the data up to its entropy
    reverse_kl_seq: float | None  # KL(this stage‖the one before)
    forward_kl_seq: float | None
    gain: Figure | None  # of the reward over the stage before, on the same prompts; of RL
    samples: tuple[Sample, ...]
    evaluated: dict[str, Any]  # settings of the evaluation
    step: int
    whole: bool  # whether it is the step that the run was to end with
    run: str
    base: str  # the fitted model's name
    alone: bool = True  # whether no other link has this stage and beta

    @property
    def label(self) -> str:
        """The stage in a few words."""
        parts = [self.stage if self.beta is None else f"{self.stage}, beta {self.beta:g}"]
        parts += [] if self.whole else [f"step {self.step}"]
        return ", ".join(parts + ([] if self.alone else [self.run]))


def chains(folders: Sequence[Path], metric: str | None = None) -> dict[str, list[Link]]:
    """Each experiment's stages, from evaluations of the model that its fit kept and of the last steps of its RL runs.

    Of several evaluations of a step it is the run's own, if there is one: `kljax analyze` may have asked for other settings.
    """
    found: dict[str, list[Link]] = {}
    references: dict[str, Link] = {}
    if metric is not None and (OTHERS.fullmatch(f"task/{metric}") or READ.match(f"task/{metric}")):
        raise UserError(f"--metric: got {metric!r}, expected a figure without model, reading and error, as token_f1.")
    if absent := next((folder for folder in folders if not folder.is_dir()), None):
        raise UserError(f"{absent}: no such directory; expected folders of kljax pretrain and kljax train, as runs.")
    for path in sorted({file.parent.resolve() for folder in folders for file in folder.rglob(CONFIG)}):
        config = read_run_config(path)
        if config.task.kind == "none" or (evaluation := _at_its_end(path, config)) is None:
            continue
        name = metric or FIRST.get(config.task.function)  # pyright: ignore
        if name is None or not {f"task/{name}", f"task/greedy_{name}"} & evaluation["metrics"].keys():
            what = f"its evaluation has no task/{name}" if name else "its task has no first figure; name one with --metric"
            say(f"Left out: {path}; {what}.")
            continue
        fit = kind_of(path) == FIT
        stages = [("as it is", None, "reference"), ("fitted", None, "policy")] if fit else [("RL", config.kl.beta, "policy")]
        links = [_link(path, config, stage, beta, name, evaluation, model) for stage, beta, model in stages]
        found.setdefault(config.name, []).extend(links)
        if not fit:
            references.setdefault(config.name, _link(path, config, "fitted", None, name, evaluation, "reference"))
    if not found:
        what = f"the figure {metric} of a task" if metric else "a task"
        raise UserError(
            f"{', '.join(map(str, folders))}: no evaluated run with {what}; expected folders of kljax pretrain and kljax "
            "train, as runs."
        )
    for name, links in found.items():
        if name in references and all(link.stage == "RL" for link in links):  # its fit was never evaluated by itself
            links.append(references[name])
        if len(bases := sorted({link.base for link in links})) > 1:
            say(f"{name}: its runs are of different fitted models, {', '.join(bases)}: ρ is not the same for all of them.")
    return {name: sorted(_told_apart(links), key=_place) for name, links in found.items()}


def _at_its_end(path: Path, config: Config) -> dict[str, Any] | None:
    """The evaluation of what a fit kept, or of a run's last step; with other readings of the same, where there are some."""
    there = evaluation_files.load_all(path)
    step = there[-1]["step"] if there else None
    if kind_of(path) == FIT and (path / RESULT).exists():
        step = read_json(path / RESULT, WRITTEN_AGAIN)["best_step"]
    those = [one for one in there if one["step"] == step]
    if not those:
        custom = " rewards=custom" if is_own(config) else ""
        say(f"Left out, not evaluated yet: {path}; kljax analyze run={path}{custom} evaluates it.")
        return None
    first = those[0]  # the run's own is the first
    alike = [one["metrics"] for one in those if one.get("settings") == first.get("settings")]
    return first | {"metrics": {name: value for metrics in reversed(alike) for name, value in metrics.items()}}


def _told_apart(links: Sequence[Link]) -> list[Link]:
    counts = Counter((link.stage, link.beta) for link in links)
    return [replace(link, alone=counts[link.stage, link.beta] == 1) for link in links]


def _four(value: float) -> str:
    """A number with four digits: BLEU and chrF reach 100, a KL hundreds of nats."""
    return f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def _place(link: Link) -> tuple[int, float]:
    return ["as it is", "fitted", "RL"].index(link.stage), -(link.beta or 0.0)


def _link(
    path: Path, config: Config, stage: str, beta: float | None, metric: str, evaluation: dict[str, Any], model: str
) -> Link:
    moved, metrics, fit = model == "policy", evaluation["metrics"], kind_of(path) == FIT
    sampled, greedy = (_figure(metrics, of_model(model, f"task/{reading}{metric}")) for reading in ("", "greedy_"))
    return Link(
        config.name,
        stage,
        beta,
        metric,
        sampled,
        greedy,
        metrics.get(of_model(model, "answers/nats_tok")),
        metrics["kl/reverse_exact_seq"] if moved else None,
        metrics["kl/forward_exact_seq"] if moved else None,
        None if beta is None else _gain(evaluation),
        tuple(Sample(each["prompt"], each.get("answer"), each[model]) for each in evaluation["samples"]),
        evaluation.get("settings", {}),
        evaluation["step"],
        fit or not moved or evaluation["step"] == config.steps,
        f"{path.parent.name}/{path.name}",
        path.name if fit else Path(read_json(path / MODEL, FROM_A_COPY)["reference"]["model"]).name,
    )


def _figure(metrics: dict[str, Any], name: str) -> Figure | None:
    if name not in metrics:
        return None
    ends = [metrics.get(f"{name}{end}") for end in ("_low", "_high")]
    return Figure(metrics[name], *ends)


def _gain(evaluation: dict[str, Any]) -> Figure:
    value, se = (evaluation["metrics"][f"reward/gain{end}"] for end in ("", "_se"))
    reach = t_quantile(groups_of(evaluation["of"]) - 1) * se
    return Figure(value, value - reach, value + reach)


def show(found: dict[str, list[Link]]) -> None:
    """A table a task; it fits into 80 columns."""
    for name, links in found.items():
        table = Table(title=f"{name}: {links[0].metric}", title_justify="left")
        for column in ("", "sampled", "greedy", "answers", "KL(π‖ρ)", "KL(ρ‖π)"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for link in links:
            numbers = link.greedy and link.greedy.value, link.answers_nats_tok, link.reverse_kl_seq, link.forward_kl_seq
            table.add_row(link.label, str(link.sampled or "–"), *("–" if n is None else _four(n) for n in numbers))
        console.print(table)
        if gains := [f"{link.label}: {link.gain}" for link in links if link.gain is not None]:
            console.print(f"Reward gained over ρ on the same prompts: {'; '.join(gains)}.", soft_wrap=True)
        if differing := _differing(links):
            console.print(f"Not evaluated alike: {', '.join(differing)} differ between the stages of {name}.", soft_wrap=True)
    console.print(
        "answers: −log p of the right ones, nats per token. KL in nats per sequence; π: the stage, ρ: the one before it."
    )


def write_samples(found: dict[str, list[Link]], file: Path, count: int) -> None:
    """The first `count` prompts of each task with what every stage has written, as Markdown."""
    lines = []
    for name, links in found.items():
        lines += [f"## {name}", ""]
        for i, first in enumerate(links[0].samples[:count]):
            lines += [f"**{i + 1}.** {_quoted(first.prompt)}", ""]
            rows = [("right answer", first.answer)] if first.answer else []
            rows += [(link.label, said) for link in links if (said := _said(link, first.prompt)) is not None]
            lines += ["| stage | writes |", "|---|---|", *(f"| {who} | {_quoted(text)} |" for who, text in rows), ""]
    with whole_file(file) as beside:
        beside.write_text("\n".join(lines), encoding="utf-8")


def _said(link: Link, prompt: str) -> str | None:
    """The completion of a stage on a prompt, if that is among its samples."""
    return next((each.completion for each in link.samples if each.prompt == prompt), None)


def _quoted(text: str) -> str:
    """A text on one line of a Markdown table, which nothing in it ends or marks up."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", " ".join(text.split()))
    return escaped or "(nothing)"


def _differing(links: Sequence[Link]) -> list[str]:
    """Settings of the evaluations that are not the same in all stages."""
    names = dict.fromkeys(name for link in links for name in link.evaluated)
    return [name for name in names if any(link.evaluated.get(name) != links[0].evaluated.get(name) for link in links)]


def plot(found: dict[str, list[Link]], file: Path) -> None:
    """A panel a task: the figure against KL(RL‖fitted), with the levels before RL."""
    import matplotlib

    matplotlib.use("Agg")  # files only: no display needed
    import matplotlib.pyplot as plt

    down = -(-len(found) // 3)
    across = -(-len(found) // down)
    size = 3.6 * across + 0.4, 3.0 * down + 0.4
    figure, grid = plt.subplots(down, across, figsize=size, dpi=150, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    for axes, (name, links) in zip(panels, found.items(), strict=False):
        _draw(axes, links)
        axes.set_title(name, fontsize=10)
        axes.set_ylabel(f"{links[0].metric}, sampled")
        axes.set_xlabel("KL(RL‖fitted), nats per sequence")
        axes.grid(alpha=0.2)
        axes.margins(y=0.12)
        farthest = max((link.reverse_kl_seq or 0.0 for link in links if link.beta is not None), default=0.0) or 1.0
        axes.set_xlim(-0.12 * farthest, 1.2 * farthest)  # room for the labels over the points
    legend = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=len(legend))
    with whole_file(file) as beside:
        figure.savefig(beside, format="png")
    plt.close(figure)


def _draw(axes: Any, links: Sequence[Link]) -> None:
    colors, widths = {"as it is": "0.6", "fitted": "C0"}, {"as it is": 3, "fitted": 1}  # the first is seen under the second
    for link in links:
        if link.beta is None and link.sampled is not None:
            axes.axhline(link.sampled.value, color=colors[link.stage], linewidth=widths[link.stage], label=link.stage)
            if link.sampled.low is not None:
                axes.axhspan(link.sampled.low, link.sampled.high, color=colors[link.stage], alpha=0.12, linewidth=0)
    trained = [link for link in links if link.beta is not None and link.sampled is not None]
    for link in trained:
        figure, kl = link.sampled, link.reverse_kl_seq
        assert figure is not None and kl is not None
        ends = (
            None if figure.low is None or figure.high is None else [[figure.value - figure.low], [figure.high - figure.value]]
        )
        label = "RL" if link is trained[0] else None
        axes.errorbar(
            kl, figure.value, yerr=ends, color="C1", marker="o", markersize=4, capsize=2, linestyle="none", label=label
        )
        top = figure.value if figure.high is None else figure.high
        text = f"β={link.beta:g}" + ("" if link.alone else f"\n{link.run}")
        axes.annotate(text, (kl, top), xytext=(0, 4), textcoords="offset points", fontsize=8, ha="center")

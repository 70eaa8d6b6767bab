"""Pictures of six claims, each a PNG with the numbers behind it as CSV."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.studies.claims import estimators, gradients, modes, optimum, overoptimisation
from kljax.kl import oracle

matplotlib.use("Agg")  # files only: no display needed
import matplotlib.pyplot as plt

RIGHT, WRONG, OTHER, QUIET = "C0", "C3", "C1", "0.6"  # colours: the truth, what misleads, a third thing, the background
WHITE = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}  # behind text over points
Table = list[dict[str, Any]]


def one_state_gradients() -> tuple[Figure, Table]:
    """Claim 1: the expected gradient of each penalty beside the truth."""
    found = gradients.one_state_gradients()
    truth = found["exact"]
    figure, axes = plt.subplots(figsize=(6.8, 4.2), dpi=150, layout="constrained")
    names = sorted(found, key=lambda name: found[name])
    values = [found[name] for name in names]
    colours = [RIGHT if np.isclose(value, truth) else WRONG for value in values]
    bars = axes.barh(names, values, color=colours, height=0.7)
    axes.bar_label(bars, [_signed(value, 3) for value in values], padding=3, fontsize=8)
    axes.axvline(truth, color=RIGHT, linewidth=1, linestyle="--")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.annotate("truth", (truth, 0.0), xytext=(4, 0), textcoords="offset points", fontsize=8, color=RIGHT, va="center")
    axes.set_xlabel("expected gradient, d/d π(A), nats")
    axes.set_title("One state, two actions, π(A) = 0.8, ρ(A) = 0.5: the gradient of KL(π‖ρ) (blue) or not (red)", fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.12)
    axes.grid(alpha=0.2, axis="x")
    return figure, [{"penalty": name, "gradient": found[name], "truth": truth} for name in names]


def estimator_noise() -> tuple[Figure, Table]:
    """Claim 4: the standard deviation of one sample of k1, k2 and k3."""
    mus = np.linspace(0.05, 2.0, 60)
    stdev = {
        name: np.array([estimators.moments(name, estimators.unit_normals(mu)).stdev for mu in mus])
        for name in estimators.VARIANCES
    }
    figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    for (name, values), colour, width in zip(stdev.items(), (RIGHT, OTHER, WRONG), (1.5, 4, 1.5), strict=True):
        axes.plot(mus, values, color=colour, linewidth=width, alpha=0.5 if width > 2 else 1, label=name)  # k3 lies on k2
    at = estimators.crossover()
    axes.axvline(at, color=QUIET, linewidth=1, linestyle="--")
    axes.annotate(
        f"KL = μ²/2 = {at**2 / 2:.3f}: from here on\nk3 is noisier than k1",
        (at, 0.012),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set_yscale("log")
    axes.set_xlabel("μ: samples of π = N(0, 1), reference ρ = N(μ, 1)")
    axes.set_ylabel("standard deviation of one sample, nats")
    axes.set_title("Noise of the estimates of KL(π‖ρ), by quadrature", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.2)
    columns = {"mu": mus, "kl": mus**2 / 2} | {f"{name}_stdev": values for name, values in stdev.items()}
    return figure, _rows(columns)


def sign_flip() -> tuple[Figure, Table]:
    """Claim 2: the sequence's and the token-local gradient over the probability of the step that leads astray."""
    probability = np.linspace(0.01, 0.99, 99)
    problems = [gradients.two_steps(p) for p in probability]
    of_sequence, of_token = (each[:, 0, 1] for each in gradients.gradients(problems, ("exact", "k2_loss")).values())
    figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes.plot(probability, of_sequence, color=RIGHT, label="sequence KL (exact, k1_reward)")
    axes.plot(probability, of_token, color=WRONG, label="token-local (k2_loss, weighted_k3_loss, exact_token)")
    flipped = of_sequence * of_token < 0
    axes.axvspan(probability[flipped].min(), probability[flipped].max(), color=WRONG, alpha=0.08, label="opposite signs")
    for values, colour in ((of_sequence, RIGHT), (of_token, WRONG)):
        value = float(np.interp(0.5, probability, values))
        axes.plot(0.5, value, "o", color=colour, markersize=5)
        above = 9 if value > 0 else -14
        axes.annotate(_signed(value, 5), (0.5, value), xytext=(0, above), textcoords="offset points", fontsize=8, ha="center")
    axes.axhline(0, color="black", linewidth=0.8)
    after = oracle.kl(oracle.log_softmax(problems[0].logits), oracle.log_softmax(problems[0].ref_logits))[2]
    axes.set_xlabel(f"π(token 1); ρ(token 1) = 0.75, KL(π‖ρ) after it {after:.2f} nats, after token 0 none")
    axes.set_ylabel("gradient in the logit of token 1, nats")
    axes.set_title("A token-local penalty can push the wrong way", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_ylim(-0.95, 1.1)
    axes.grid(alpha=0.2)
    return figure, _rows({"probability": probability, "sequence": of_sequence, "token_local": of_token})


def frontier() -> tuple[Figure, Table]:
    """Claim 3: reward against KL of the optimal policies, whose slope is beta, with random policies below."""
    line = oracle.frontier(optimum.REF_LOGP, optimum.REWARD, np.geomspace(0.08, 50, 200))
    points = oracle.frontier(optimum.REF_LOGP, optimum.REWARD, np.array(list(optimum.TABLE)))
    random = np.random.default_rng(0).dirichlet(np.ones(3), size=300)
    reward, kl = random @ optimum.REWARD, optimum.reverse_kl(np.log(random), np.broadcast_to(optimum.REF_LOGP, random.shape))
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes.plot(kl, reward, ".", color=QUIET, markersize=3, label="random policies")
    axes.plot(line.kl, line.reward, color=RIGHT, label="optimal policies, ρ exp(r/β)/Z")
    for i, (beta, at_kl, at_reward) in enumerate(zip(points.beta, points.kl, points.reward, strict=True)):
        run = 0.28 / np.hypot(1, beta)  # tangents of about one length
        ends = np.array([-run, run])
        label = "closed form, with the slope β" if i == 0 else None
        axes.plot(at_kl + ends, at_reward + beta * ends, color=WRONG, linewidth=1.2)
        axes.plot(at_kl, at_reward, "o", color=WRONG, markersize=5, label=label)
        text = f"β = {beta:g}: {at_reward:.3f} at {at_kl:.3f} nats"
        axes.annotate(text, (at_kl, at_reward), xytext=(9, -13), textcoords="offset points", fontsize=8, bbox=WHITE)
    axes.set_xlabel("KL(π‖ρ), nats")
    axes.set_ylabel("E[r]")
    axes.set_xlim(-0.08, 2.25)
    axes.set_title("The frontier of ρ = (0.5, 0.3, 0.2), r = (0, 1, 2)", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(alpha=0.2)
    table = [
        *_rows({"policy": ["optimal"] * len(line.kl), "beta": line.beta, "kl": line.kl, "reward": line.reward}),
        *_rows({"policy": ["table"] * len(points.kl), "beta": points.beta, "kl": points.kl, "reward": points.reward}),
        *_rows({"policy": ["random"] * len(kl), "beta": [""] * len(kl), "kl": kl, "reward": reward}),
    ]
    return figure, table


def overoptimised() -> tuple[Figure, Table]:
    """Claim 8: proxy and gold reward over d = √KL, with the fitted forms and their peaks."""
    panels = (
        (
            "d(α − βd)",
            "quadratic",
            {"tilting": overoptimisation.tilted("quadratic", 0.1, 5.0), "best of n": overoptimisation.best_of("quadratic")},
        ),
        ("d(α − β log d)", "logarithmic", {"tilting": overoptimisation.tilted("logarithmic", overoptimisation.LEAST, 12.0)}),
    )
    figure, both = plt.subplots(1, 2, figsize=(9.4, 4.2), dpi=150, layout="constrained")
    table: Table = []
    for axes, (form, gold, curves) in zip(both, panels, strict=True):
        proxy = curves["tilting"]
        axes.plot(proxy.d, proxy.proxy, color=QUIET, label="proxy reward, tilting")
        for (label, along), colour in zip(curves.items(), (RIGHT, WRONG), strict=False):
            fitted = overoptimisation.fit(gold, along)
            by_fit = fitted.alpha * along.d - fitted.beta * overoptimisation.SECOND[gold](along.d)
            axes.plot(along.d, along.gained, color=colour, linewidth=3, alpha=0.4, label=f"gold reward, {label}")
            axes.plot(
                along.d,
                by_fit,
                color=colour,
                linewidth=1,
                linestyle="--",
                label=f"fit: α = {fitted.alpha:.3f}, β = {fitted.beta:.3f}",
            )
            peak = fitted.alpha * fitted.peak - fitted.beta * overoptimisation.SECOND[gold](np.array(fitted.peak))
            axes.plot(fitted.peak, peak, "v", color=colour, markersize=7, label=f"peak of the fit, d = {fitted.peak:.3f}")
            columns = {"d": along.d, "proxy": along.proxy, "gold": along.gained, "fit": by_fit}
            table += [{"form": form, "policies": label} | row for row in _rows(columns)]
        axes.set_xlabel("d = √KL(π‖ρ)")
        axes.set_ylabel("reward gained over the reference's")
        axes.set_title(f"Overoptimisation of the form {form}", fontsize=10)
        lowest = min(float(along.gained.min()) for along in curves.values())
        highest = max(float(along.gained.max()) for along in curves.values())
        axes.set_ylim(min(lowest, 0) - 0.1 * highest, 2.2 * highest)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.2)
    return figure, table


def covering_and_seeking() -> tuple[Figure, Table]:
    """Claim 11: the target of two modes and one Gaussian fitted by each direction of KL."""
    shown = np.abs(modes.X) <= 10
    x, density = modes.X[shown], {"target": _density(modes.two_modes, 3.0, 1.0)[shown]}
    labels = {"target": "target ½N(±3, 1)"}
    for name, direction, start in (
        ("forward", "forward", 1.0),
        ("reverse_right", "reverse", 2.0),
        ("reverse_left", "reverse", -2.0),
    ):
        found = modes.fit(direction, start)
        density[name] = _density(modes.gaussian, found.location, found.sd)[shown]
        order = "target‖fit" if direction == "forward" else "fit‖target"
        labels[name] = f"least KL({order}): mean {_signed(found.location, 2)}, sd {found.sd:.3f}, {found.kl:.3f} nats left"
    figure, axes = plt.subplots(figsize=(6.8, 4.2), dpi=150, layout="constrained")
    axes.fill_between(x, density["target"], color=QUIET, alpha=0.35, label=labels["target"])
    for name, colour, style in (("forward", RIGHT, "-"), ("reverse_right", WRONG, "-"), ("reverse_left", WRONG, "--")):
        axes.plot(x, density[name], color=colour, linestyle=style, linewidth=1.5, label=labels[name])
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.set_ylim(0, 0.62)
    axes.set_title("Forward KL covers both modes, reverse KL settles on one", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper center")
    axes.grid(alpha=0.2)
    return figure, _rows({"x": x} | density)


FIGURES: dict[str, Callable[[], tuple[Figure, Table]]] = {
    "one_state_gradients": one_state_gradients,
    "sign_flip": sign_flip,
    "frontier": frontier,
    "estimator_noise": estimator_noise,
    "overoptimisation": overoptimised,
    "covering_and_seeking": covering_and_seeking,
}


def write(names: Iterable[str], folder: Path) -> list[Path]:
    """Draw these figures into a folder: NAME.png and NAME.csv; the PNGs are returned."""
    written = []
    for name in names:
        figure, table = FIGURES[name]()
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1])
        plt.close(figure)
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return written


def _density(family: modes.Family, location: float, sd: float) -> np.ndarray:
    """The family's density on the grid."""
    mass = np.exp(oracle.log_softmax(np.asarray(family(jnp.array([location, np.log(sd)])), float)))
    return mass / (modes.X[1] - modes.X[0])


def _signed(value: float, digits: int) -> str:
    """With its sign, but for a 0."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _rows(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Table:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

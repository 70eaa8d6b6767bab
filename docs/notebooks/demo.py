"""The runs of `make demo`, looked at: frontier, completions, tokens coloured by KL, KL by position, beta against KL.

marimo edit docs/notebooks/demo.py                         in a browser (pip install -e '.[notebook]' -c constraints.txt)
marimo run docs/notebooks/demo.py -- --runs runs/mine      read only, other runs
python docs/notebooks/demo.py --runs runs/mine             as a script, which shows nothing: what the suite does
"""

import marimo

app = marimo.App(width="medium", app_title="The runs of make demo")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt
    import pandas as pd

    import kljax

    return Path, kljax, mo, pd, plt


@app.cell
def _(Path, kljax, mo):
    folder = Path(mo.cli_args().get("runs") or "runs/grammar")
    found = [kljax.load_run(file.parent) for file in sorted(folder.glob("*/config.yaml"))]
    runs = {run.path.name: run for run in sorted(found, key=lambda run: run.config.kl.beta) if len(run.evaluations)}
    mo.stop(not runs, mo.md(f"No finished run in `{folder}`: `make demo` makes some, or give a folder with `-- --runs`."))
    mo.md(
        f"# {len(runs)} runs in {folder}\n\nKLs are in nats, exact over the whole vocabulary; π is the policy, ρ the reference."
    )
    return folder, runs


@app.cell
def _(pd, runs):
    shown = ("reward/mean", "kl/reverse_exact_seq", "kl/forward_exact_seq")
    columns = [name + error for name in shown for error in ("", "_se")]
    own = {name: run.evaluations.iloc[0] for name, run in runs.items()}  # the run's own comes first
    points = pd.DataFrame({name: row.reindex(columns) for name, row in own.items()}).T.astype(float)
    points.insert(0, "beta", [run.config.kl.beta for run in runs.values()])
    points.round(3)
    return own, points


@app.cell
def _(mo):
    mo.md("""
    ## The frontier

    Reward against KL on held-out prompts, with a standard error to each side, over prompts. The square is the reference.
    """)


@app.cell
def _(own, plt, points):
    frontier, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    x, y = "kl/reverse_exact_seq", "reward/mean"
    axes.errorbar(points[x], points[y], points[f"{y}_se"], points[f"{x}_se"], fmt="o-", capsize=3)
    for beta, at_kl, at_reward in zip(points["beta"], points[x], points[y], strict=True):
        axes.annotate(f" β = {beta:g}", (at_kl, at_reward), textcoords="offset points", xytext=(6, -12))
    axes.plot(0, next(iter(own.values()))["reward/reference_mean"], "s", color="grey", label="reference")
    axes.set(xlabel="KL(π‖ρ), nats per sequence", ylabel="reward", title="Held-out prompts")
    axes.legend()
    frontier


@app.cell
def _(mo, runs):
    chosen = mo.ui.dropdown(list(runs), value="default" if "default" in runs else next(iter(runs)), label="run")
    prompts = mo.ui.text(value="the movie was; this film", label="prompts, divided by ;", full_width=True)
    mo.vstack([mo.md("## Completions, with the same noise"), chosen, prompts])
    return chosen, prompts


@app.cell
def _(chosen, kljax, mo, prompts, runs):
    policy, reference = runs[chosen.value].policy(), runs[chosen.value].reference()
    asked = [text.strip() for text in prompts.value.split(";") if text.strip()]
    try:
        drawn, ref_drawn = (model.sample(asked, samples=4, seed=0) for model in (policy, reference))
    except kljax.UserError as error:
        mo.stop(True, mo.callout(str(error), kind="warn"))
    drawn.frame()[["prompt", "text"]].rename(columns={"text": "policy"}).assign(reference=ref_drawn.texts).map(str.strip)
    return drawn, policy, ref_drawn, reference


@app.cell
def _(drawn, kljax, mo, policy, ref_drawn, reference):
    reverse = kljax.compare(policy, reference, drawn)
    forward = kljax.compare(policy, reference, ref_drawn, divergence="forward_kl")
    mo.md(f"```\n{reverse}\n\n{forward}\n```")
    return forward, reverse


@app.cell
def _(mo, reverse):
    tokens = reverse.by_token()
    mo.vstack([mo.md("## Where the KL is\n\nEach token with the KL of the state in which it was chosen."), tokens])
    return (tokens,)


@app.cell
def _(plt, policy, prompts, reference):
    from kljax import compare

    first_prompt = prompts.value.split(";")[0].strip()
    by_position = compare(policy, reference, policy.sample(first_prompt, samples=256, seed=1)).by_position()
    by_position = by_position[by_position["completions"] >= 10]  # few reach the last positions
    pictured, by_axes = plt.subplots(figsize=(7, 3), layout="constrained")
    by_axes.bar(by_position.index, by_position["reverse_exact_tok"], yerr=by_position["reverse_exact_tok_se"], capsize=2)
    by_axes.xaxis.get_major_locator().set_params(integer=True)
    by_axes.set(
        xlabel="token of the completion", ylabel="nats", title=f"KL(π‖ρ) by position, 256 completions of '{first_prompt}'"
    )
    pictured
    return (by_position,)


@app.cell
def _(mo):
    mo.md("""
    ## β against KL

    On the left while it trains, on the right on held-out prompts: for the built-in task about as 1/β², as for
    rewards that are normal under the reference.
    """)


@app.cell
def _(plt, points, runs):
    betas, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for run in runs.values():
        run.metrics["kl/reverse_exact_seq"].rolling(5, min_periods=1).mean().plot(ax=left, label=f"β = {run.config.kl.beta:g}")
    left.set(xlabel="step", ylabel="KL(π‖ρ), nats per sequence")
    left.legend()
    right.loglog(points["beta"], points["kl/reverse_exact_seq"], "o-")
    right.set(xlabel="β, reward units per nat", ylabel="KL(π‖ρ), nats per sequence")
    right.set_xticks(points["beta"], [f"{beta:g}" for beta in points["beta"]])
    right.set_yticks(points["kl/reverse_exact_seq"], [f"{kl:.2g}" for kl in points["kl/reverse_exact_seq"]])
    right.minorticks_off()
    betas


if __name__ == "__main__":
    app.run()

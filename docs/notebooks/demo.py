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
    from tempfile import TemporaryDirectory

    import marimo as mo
    import matplotlib.pyplot as plt
    import pandas as pd
    from matplotlib.ticker import LogLocator, NullLocator

    import kljax
    from kljax.analysis import frontier, frontier_picture

    return LogLocator, NullLocator, Path, TemporaryDirectory, frontier, frontier_picture, kljax, mo, pd, plt


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
def _(frontier, kljax, mo, runs):
    try:
        points, said = frontier.points([run.path for run in runs.values()])
    except kljax.UserError as error:
        mo.stop(True, mo.callout(str(error), kind="warn"))
    about = """
    ## The frontier

    Reward against KL on held-out prompts, as `kljax frontier` has it: of each run the evaluation of its last step, a point of
    runs that differ by their seed alone, a curve of points that differ by β alone. ± is half of an interval of 95 %.
    """
    mo.vstack([mo.md(about), mo.md("\n".join(f"- {sentence}" for sentence in said))])
    return (points,)


@app.cell
def _(pd, points):
    columns = ["curve", "beta", "step", "seeds", "reward", "reward ±", "KL(π‖ρ)", "KL ±"]
    halves = [{"reward ±": one.reward_high - one.reward, "KL(π‖ρ)": one.kl, "KL ±": one.kl_high - one.kl} for one in points]
    table = pd.DataFrame([vars(one) | half for one, half in zip(points, halves, strict=True)])[columns].round(3)
    table
    return (table,)


@app.cell
def _(TemporaryDirectory, Path, frontier_picture, mo, points):
    with TemporaryDirectory() as made:
        frontier_picture.plot(points, Path(made) / "frontier.png")
        picture = (Path(made) / "frontier.png").read_bytes()
    mo.image(picture, width=700)
    return (picture,)


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
    mo.md(f"```text\n{reverse}\n\n{forward}\n```")
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
        xlabel="token of the completion", ylabel="nats", title=f"KL(π‖ρ) by position, 256 completions of '{first_prompt}' ± se"
    )
    pictured
    return (by_position,)


@app.cell
def _(mo):
    mo.md("""
    ## β against KL

    On the left while it trains, a line a run; on the right on held-out prompts, a line a curve of the frontier. For the
    built-in task the KL goes about as 1/β², as for rewards that are normal under the reference.
    """)


@app.cell
def _(LogLocator, NullLocator, plt, points, runs):
    betas, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name, run in runs.items():
        while_training = run.metrics["kl/reverse_exact_seq"].rolling(5, min_periods=1).mean()
        while_training.plot(ax=left, linewidth=1, label=f"{name}: β = {run.config.kl.beta:g}")
    left.set(xlabel="step", ylabel="KL(π‖ρ), nats per sequence")
    held = [one for one in points if one.varied == "kl.beta" and one.value > 0 and one.kl > 0]
    right.set_prop_cycle(color=plt.get_cmap("Dark2").colors)  # none that a run has on the left
    for curve in dict.fromkeys(one.curve for one in held):
        line = [one for one in held if one.curve == curve]
        right.loglog([one.value for one in line], [one.kl for one in line], "o-", markersize=4, linewidth=1, label=curve)
    right.set(xlabel="β, reward units per nat", ylabel="KL(π‖ρ), nats per sequence")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    betas.legend(*left.get_legend_handles_labels(), loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    betas.legend(*right.get_legend_handles_labels(), loc="outside lower right", fontsize=8, frameon=False)
    betas


if __name__ == "__main__":
    app.run()

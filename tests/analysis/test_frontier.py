"""The frontier's points, where they come from, and what they are called."""

import csv
import json
import math

import numpy as np
import pytest
import yaml

from kljax.analysis import frontier, frontier_picture, tables
from kljax.errors import UserError
from kljax.runs import config_file, evaluation_files
from kljax.runs.intervals import t_quantile


def found_in(folder):
    return frontier.points(config_file.find_runs([folder]))


def test_one_seed_has_the_error_of_its_prompts(write_run, tmp_path):
    rewards = np.random.default_rng(0).normal(size=12)
    write_run(tmp_path / "a", reward=rewards)
    (point,), said = found_in(tmp_path)
    error = rewards.std(ddof=1) / math.sqrt(12)
    assert (point.reward, point.reward_se) == (pytest.approx(rewards.mean()), pytest.approx(error))
    assert point.reward_high - point.reward == pytest.approx(t_quantile(11) * error)
    assert (point.step, point.steps, point.seeds, point.prompts, said) == (6, 6, 1, 12, [])
    assert point.reference_reward == point.base_reward == pytest.approx(0.5)


def test_seeds_are_averaged_with_the_error_of_seeds_and_of_the_prompts_that_they_share(write_run, tmp_path):
    """Seeds that agree are no better known than their prompts are."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=12)
    table = np.array([shared + 0.1 * rng.normal(size=12) for _ in range(3)])
    for seed, rewards in enumerate(table):
        write_run(tmp_path / f"s{seed}", f"seed={seed}", reward=rewards, kl=np.full(12, 2.0 + seed))
    (point,), _ = found_in(tmp_path)
    assert (point.seeds, point.reward) == (3, pytest.approx(table.mean()))
    assert point.reward_se > 0.9 * shared.std(ddof=1) / math.sqrt(12)
    assert point.reward_se > 3 * table.mean(axis=1).std(ddof=1) / math.sqrt(3)  # what ignores that prompts are shared
    assert (point.kl, point.kl_se) == (pytest.approx(3.0), pytest.approx(1 / math.sqrt(3)))
    assert point.kl_high - point.kl == pytest.approx(4.30 / math.sqrt(3), rel=1e-3)


def test_a_run_twice_is_one_seed(write_run, tmp_path):
    write_run(tmp_path / "a", "run.save_every=3")
    write_run(tmp_path / "b", "mesh.data=2", reward=5.0)
    (point,), (said,) = found_in(tmp_path)
    assert (point.seeds, point.reward) == (1, pytest.approx(1.0))
    assert "the same configuration and seed" in said and "/a and" in said


@pytest.mark.parametrize(
    "changes",
    [
        ["kl.penalty=k1_reward"],
        ["kl/divergence=jeffreys"],
        ["optimizer.learning_rate=0.02"],
        ["steps=9"],
        ["name=other"],
        ["data.seed=3"],
        ["data.source.sentences=500"],
        ["rollout.updates=2"],
    ],
    ids=lambda changes: changes[0],
)
def test_what_differs_makes_and_names_a_curve(write_run, tmp_path, changes):
    write_run(tmp_path / "a", "kl.beta=0.1")
    write_run(tmp_path / "b", "kl.beta=0.1", *changes)
    write_run(tmp_path / "c", "kl.beta=0.2", *changes)
    found, _ = found_in(tmp_path)
    assert len(found) == 3
    curves = {point.curve for point in found}
    assert len(curves) == 2 and changes[0] in curves
    assert {curve.partition("=")[0] for curve in curves} == {changes[0].partition("=")[0]}


def test_a_label_says_what_is_not_as_in_most_curves(write_run, tmp_path):
    write_run(tmp_path / "a", "kl.penalty=k1_reward", "optimizer.learning_rate=0.02")
    write_run(tmp_path / "b")
    found, said = found_in(tmp_path)
    assert [point.curve for point in found] == [
        "kl.penalty=exact, optimizer.learning_rate=0.001", "kl.penalty=k1_reward, optimizer.learning_rate=0.02"
    ]  # fmt: skip
    assert said == []
    write_run(
        tmp_path / "c", "kl/divergence=jensen_shannon", "steps=9", "rollout.samples=4", "data/source=letters", "reward=length"
    )
    found, said = found_in(tmp_path)
    assert [point.curve for point in found] == [
        "kl.penalty=exact, kl/divergence=reverse_kl, optimizer.learning_rate=0.001, steps=6 +3 more",
        "kl.penalty=k1_reward, optimizer.learning_rate=0.02",
        "kl/divergence=jensen_shannon, steps=9, rollout.samples=4, reward=[length] +1 more",
    ]
    (usual,) = said
    assert usual == (
        "Where a curve's name does not say otherwise: kl.penalty=exact, kl/divergence=reverse_kl, "
        "optimizer.learning_rate=0.001, steps=6, rollout.samples=2, reward=[sentiment], data/source=grammar."
    )


@pytest.mark.parametrize(
    "one, other, names",
    [
        (["+model.rope_scaling.kind=linear", "+model.rope_scaling.factor=2.0", "model=llama"], ["model=llama"],
         {"model/rope_scaling=linear", "model/rope_scaling=null"}),
        (["reference.path=/here/x"], ["reference.path=/there/x"], {"reference.path=/here/x", "reference.path=/there/x"}),
        (["reference.path=/runs/here"], [], {"reference.path=here", "reference.path=null"}),
        (["reward=[sentiment,length]"], [], {"reward=[length,sentiment]", "reward=[sentiment]"}),
        (["kl/controller=target"], [], {"kl/controller=target", "kl/controller=fixed"}),
        (["kl/controller=target", "kl.beta=0.2"], ["kl/controller=target"], {"kl.beta=0.2", "kl.beta=0.5"}),
        (["kl/divergence=jensen_shannon", "kl.divergence.mix=0.2"], ["kl/divergence=jensen_shannon"],
         {"kl.divergence.mix=0.2", "kl.divergence.mix=0.5"}),
    ],
    ids=range(7),
)  # fmt: skip
def test_each_kind_of_difference_has_a_name(write_run, tmp_path, one, other, names):
    write_run(tmp_path / "a", *one)
    write_run(tmp_path / "b", *other)
    assert {point.curve for point in found_in(tmp_path)[0]} == names


def test_fields_that_have_their_default_are_the_same_as_none(write_run, tmp_path):
    """An older config.yaml has none of the fields that came later."""
    write_run(tmp_path / "a", "seed=0")
    write_run(tmp_path / "b", "seed=1")
    config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    del config["model"]["nope_every"], config["evaluation"]["top_k"]
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    (point,), _ = found_in(tmp_path)
    assert point.seeds == 2
    write_run(tmp_path / "c", "model=llama", "model.nope_every=1")
    write_run(tmp_path / "d", "model=llama")
    found, _ = found_in(tmp_path)
    assert len(found) == 3
    assert len([p for p in found if "model.nope_every=1" in p.curve]) == 1


def test_a_controller_runs_along_its_budget(write_run, tmp_path):
    for budget, reached in ((1.0, 0.7), (4.0, 0.2)):
        write_run(tmp_path / f"b{budget}", "kl/controller=target", f"kl.controller.budget={budget}", beta=reached)
    found, _ = found_in(tmp_path)
    assert [(p.varied, p.value, p.beta) for p in found] == [
        ("kl.controller.budget", 1.0, 0.7),
        ("kl.controller.budget", 4.0, 0.2),
    ]
    assert len({p.curve for p in found}) == 1
    assert [frontier_picture.name_of(p) for p in found] == ["budget = 1", "budget = 4"]


def test_another_step_is_a_point_of_its_own(write_run, tmp_path):
    write_run(tmp_path / "a", "seed=0", reward=1.0)
    write_run(tmp_path / "b", "seed=1", reward=2.0, step=4)
    found, _ = found_in(tmp_path)
    assert [(p.step, p.seeds, p.reward) for p in found] == [(4, 1, pytest.approx(2.0)), (6, 1, pytest.approx(1.0))]
    assert [frontier_picture.name_of(p) for p in found] == ["β = 0.5, step 4 of 6", "β = 0.5"]
    assert len({p.curve for p in found}) == 1


def test_only_evaluations_of_the_same_settings_are_compared(write_run, tmp_path):
    for i in range(2):
        write_run(tmp_path / f"r{i}", f"seed={i}")
    write_run(tmp_path / "r2", "seed=2", settings={"samples": 8}, reward=9.0)
    (point,), (said,) = found_in(tmp_path)
    assert (point.seeds, point.reward, point.completions_a_prompt) == (2, pytest.approx(1.0), 2)
    assert "Left out, evaluated otherwise than most" in said
    assert said.endswith("r2 prompts=16 samples=2 seed=0 top_k=0 top_p=1.0).")
    write_run(tmp_path / "r2", "seed=2", reward=3.0)  # the run's own beside it, as analyze.py would write it
    (point,), said = found_in(tmp_path)
    assert (point.seeds, point.reward, said) == (3, pytest.approx(5 / 3), [])


def test_of_settings_that_all_have_the_runs_own_are_taken(write_run, tmp_path):
    for i in range(2):
        write_run(tmp_path / f"r{i}", f"seed={i}", reward=1.0)
        write_run(tmp_path / f"r{i}", f"seed={i}", reward=4.0, settings={"samples": 8})
    (point,), said = found_in(tmp_path)
    assert (point.completions_a_prompt, point.reward, said) == (2, pytest.approx(1.0), [])


def test_runs_on_other_prompts_are_no_repeats(write_run, tmp_path):
    for i, prompts in enumerate((12, 12, 11)):
        write_run(tmp_path / f"r{i}", f"seed={i}", prompts=prompts)
    (point,), (said,) = found_in(tmp_path)
    assert point.seeds == 2 and "its held-out prompts are others" in said and said.endswith("r2")


def test_what_an_older_version_evaluated_is_left_out_with_a_way_out(write_run, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "seed=1", step="none")
    (tmp_path / "b" / "evaluation").mkdir()
    (tmp_path / "b" / "evaluation" / "step_000006.json").write_text(json.dumps({"step": 6, "metrics": {"reward/mean": 1.0}}))
    (point,), (said,) = found_in(tmp_path)
    assert point.seeds == 1 and "evaluated by an older version" in said and f"kljax analyze run={tmp_path / 'b'} does" in said


def test_a_reference_that_moves_is_shown_by_the_kl_to_the_base(write_run, tmp_path, capsys):
    to_base = {"reward/base_mean": 0.1, "kl/reverse_exact_to_base_seq": 7.0}
    write_run(tmp_path / "a", "reference/refresh=every", kl=0.2, more=to_base)
    found, _ = found_in(tmp_path)
    (point,) = found
    assert (point.moves, point.kl, point.kl_to_base, point.base_reward) == (True, *map(pytest.approx, (0.2, 7.0, 0.1)))
    assert frontier_picture._interval(point)[0] == point.kl_to_base
    assert frontier_picture._axis(found) == "KL(policy‖base model), nats per sequence"
    tables.show_frontier(found)
    shown = capsys.readouterr().out
    assert "KL to base" in shown and "7.000 ± " in shown and "0.200 ± " in shown


def test_points_are_sorted_by_curve_and_beta_and_unfinished_runs_are_named(write_run, tmp_path):
    write_run(tmp_path / "a", "kl.beta=1.0")
    write_run(tmp_path / "b", "kl.beta=0.1")
    write_run(tmp_path / "c", "kl.beta=0.1", "kl.penalty=k1_reward")
    write_run(tmp_path / "d", "kl.beta=5.0", step="none")
    found, said = found_in(tmp_path)
    assert [(p.curve, p.beta) for p in found] == [
        ("kl.penalty=exact", 0.1), ("kl.penalty=exact", 1.0), ("kl.penalty=k1_reward", 0.1)
    ]  # fmt: skip
    assert said == [f"Left out, not finished: {tmp_path / 'd'}"]


def test_base_models_are_no_runs(write_run, tmp_path):
    write_run(tmp_path / "bases" / "x")
    with pytest.raises(UserError, match="whose KL is to the model that each started from; expected RL runs"):
        config_file.find_runs([tmp_path])


def test_only_unfinished_runs_are_an_error(write_run, tmp_path):
    write_run(tmp_path / "d", step="none")
    with pytest.raises(UserError, match="no run here is finished"):
        found_in(tmp_path)


def test_csv_table_and_picture_are_written(write_run, tmp_path, capsys):
    for i, beta in enumerate((0.1, 1.0)):
        for seed in range(2):
            write_run(tmp_path / f"r{i}{seed}", f"kl.beta={beta}", f"seed={seed}", reward=2.0 - beta, kl=3.0 - beta)
    found, _ = found_in(tmp_path)
    frontier.write_csv(found, tmp_path / "f.csv")
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert [float(row["reward"]) for row in rows] == pytest.approx([1.9, 1.0])
    assert {(row["seeds"], row["prompts"], row["level"]) for row in rows} == {("2", "12", "0.95")}
    frontier_picture.plot(found, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    tables.show_frontier(found)
    shown = capsys.readouterr().out
    assert "grammar: rloo, exact" in shown and "counts 12.7 standard errors" in shown


def test_evaluations_are_in_the_order_of_their_steps_beyond_six_digits_too(tmp_path):
    (tmp_path / "evaluation").mkdir()
    for step in (1_000_000, 999_000, 80):
        (tmp_path / "evaluation" / f"step_{step:06d}.json").write_text(json.dumps({"step": step, "metrics": {}}))
    assert [found["step"] for found in evaluation_files.load_all(tmp_path)] == [80, 999_000, 1_000_000]

"""The frontier's points and where they come from."""

import csv
import json
import math

import pytest
import yaml

from kljax.analysis import frontier
from kljax.errors import UserError


def write_run(folder, beta, seed, reward, kl, penalty="exact", finished=True, reached=None):
    folder.mkdir(parents=True)
    config = {
        "name": "t",
        "seed": seed,
        "algorithm": "rloo",
        "kl": {"beta": beta, "penalty": penalty, "controller": {"kind": "fixed" if reached is None else "target"}},
        "run": {"variant": folder.name},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if finished:
        (folder / "evaluation").mkdir()
        for step, scale in ((5, 0.0), (10, 1.0)):
            metrics = {
                "reward/mean": scale * reward, "reward/mean_se": 0.25,
                "reward/reference_mean": 0.5, "reward/reference_mean_se": 0.1,
                "kl/reverse_exact_seq": scale * kl, "kl/reverse_exact_seq_se": 0.125,
                "kl/beta": reached,
            }  # fmt: skip
            file = folder / "evaluation" / f"step_{step:06d}.json"
            file.write_text(json.dumps({"step": step, "metrics": metrics, "samples": []}))


def test_one_seed_has_the_error_of_its_evaluation(tmp_path):
    write_run(tmp_path / "a", beta=0.1, seed=0, reward=2.0, kl=3.0)
    (point,), unfinished = frontier.points(frontier.find_runs([tmp_path]))
    assert (point.reward, point.reward_se, point.kl, point.kl_se) == (2.0, 0.25, 3.0, 0.125)
    assert (point.step, point.seeds, point.reference_reward, unfinished) == (10, 1, 0.5, [])


def test_seeds_are_averaged_and_their_spread_is_the_error(tmp_path):
    for seed, reward in enumerate([1.0, 2.0, 3.0]):
        write_run(tmp_path / f"s{seed}", beta=0.1, seed=seed, reward=reward, kl=2 * reward)
    ((point,), _) = frontier.points(frontier.find_runs([tmp_path]))
    assert (point.seeds, point.reward, point.kl) == (3, 2.0, 4.0)
    assert point.reward_se == pytest.approx(1.0 / math.sqrt(3))
    assert point.kl_se == pytest.approx(2.0 / math.sqrt(3))


def test_the_beta_of_a_controller_is_the_one_it_reached(tmp_path):
    write_run(tmp_path / "a", beta=0.1, seed=0, reward=2.0, kl=3.0, reached=0.7)
    ((point,), _) = frontier.points(frontier.find_runs([tmp_path]))
    assert point.beta == 0.7


def test_points_are_sorted_by_curve_and_beta_and_unfinished_runs_are_named(tmp_path):
    write_run(tmp_path / "a", beta=1.0, seed=0, reward=1.0, kl=1.0)
    write_run(tmp_path / "b", beta=0.1, seed=0, reward=2.0, kl=3.0)
    write_run(tmp_path / "c", beta=0.1, seed=0, reward=2.0, kl=3.0, penalty="k1_reward")
    write_run(tmp_path / "d", beta=5.0, seed=0, reward=0.0, kl=0.0, finished=False)
    found, unfinished = frontier.points(frontier.find_runs([tmp_path]))
    assert [(p.curve, p.beta) for p in found] == [("t: rloo, exact", 0.1), ("t: rloo, exact", 1.0), ("t: rloo, k1_reward", 0.1)]
    assert unfinished == [tmp_path / "d"]


def test_base_models_are_no_runs(tmp_path):
    write_run(tmp_path / "bases" / "x", beta=0.1, seed=0, reward=1.0, kl=1.0)
    with pytest.raises(UserError, match="no run directory here"):
        frontier.find_runs([tmp_path])


def test_only_unfinished_runs_are_an_error(tmp_path):
    write_run(tmp_path / "d", beta=5.0, seed=0, reward=0.0, kl=0.0, finished=False)
    with pytest.raises(UserError, match="not finished"):
        frontier.points(frontier.find_runs([tmp_path]))


def test_csv_and_picture_are_written(tmp_path):
    for i, beta in enumerate((0.1, 1.0)):
        write_run(tmp_path / f"r{i}", beta=beta, seed=0, reward=2.0 - beta, kl=3.0 - beta)
    found, _ = frontier.points(frontier.find_runs([tmp_path]))
    frontier.write_csv(found, tmp_path / "f.csv")
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert [float(row["reward"]) for row in rows] == [1.9, 1.0]
    frontier.plot(found, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")

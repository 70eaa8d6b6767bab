"""Forward beside reverse KL on text: the judges of both parts against other ways, and both parts in seconds."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.studies.directions import (
    adapting,
    dialects,
    forgetting,
    forgetting_report,
    modes,
    modes_report,
    optimum,
    results,
    students,
    two_tasks,
)
from experiments.studies.directions.two_tasks import NEW, OLD, TwoTasks
from kljax.kl import divergences, oracle

WORDS, LENGTH = 3, 3


@pytest.fixture
def teacher():
    """Two dialects of three words: 0 … 0 and 1 … 1, whose middle is the third word, and a little of everything else."""
    p = np.full((WORDS,) * LENGTH, 0.0005)
    p[0, 2, 0], p[1, 2, 1] = 0.57, 0.38
    return np.log(p / p.sum()).reshape(-1)


# The exact optimum ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", optimum.DIVERGENCES)
def test_the_judges_divergences_are_those_of_the_literature_with_their_gradients(name):
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), size=2)
    value, slope = optimum.DIVERGENCES[name](p, q)
    assert value == pytest.approx(float(oracle.DIVERGENCES[name][0](q, p)))
    for i in range(6):  # in log q
        moved = [optimum.DIVERGENCES[name](p, q * np.exp(step * np.eye(6)[i]))[0] for step in (1e-6, -1e-6)]
        assert slope[i] == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("name", optimum.DIVERGENCES)
def test_the_gradient_of_the_descent_is_that_of_its_value(name, teacher):
    objective = optimum._objective(np.exp(teacher), name, WORDS, LENGTH)
    x = np.random.default_rng(1).normal(size=WORDS + (LENGTH - 1) * WORDS**2)
    slope = objective(x)[1]
    for i, direction in enumerate(np.eye(len(x))):
        moved = objective(x + 1e-5 * direction)[0] - objective(x - 1e-5 * direction)[0]
        assert slope[i] == pytest.approx(moved / 2e-5, abs=1e-8)


def test_the_forward_optimum_is_the_chain_in_closed_form(teacher):
    best = optimum.optima(teacher, "forward_kl", WORDS, LENGTH, starts=3)[0]
    p = np.exp(teacher).reshape((WORDS,) * LENGTH)
    first, second, third = p.sum((1, 2)), p.sum(2), p.sum(0)
    for i, (a, b, c) in enumerate(itertools.product(range(WORDS), repeat=LENGTH)):
        chain = first[a] * second[a, b] / second[a].sum() * third[b, c] / third[b].sum()
        assert math.exp(best.logp[i]) == pytest.approx(chain, abs=1e-6)


def test_the_reverse_optimum_keeps_the_heavier_dialect_and_the_other_is_found_beside_it(teacher):
    each = []
    for word in (0, 1):
        alone = np.full((WORDS,) * LENGTH, 1e-3)
        alone[word, 2, word] = 1.0
        each.append(np.log(alone / alone.sum()).reshape(-1))
    found = optimum.optima(teacher, "reverse_kl", WORDS, LENGTH, starts=3, near=each)
    masses = [np.exp(one.logp).reshape((WORDS,) * LENGTH) for one in found]
    assert masses[0][0, 2, 0] > 5 * masses[0][1, 2, 1]
    assert any(mass[1, 2, 1] > 5 * mass[0, 2, 0] for mass in masses[1:])
    assert found[0].value == pytest.approx(float(oracle.kl(found[0].logp, teacher)))
    coarse = min(  # a grid over chains that are sure of their middle word cannot do better
        float(oracle.kl(logp, teacher))
        for a, c in itertools.product(np.linspace(0.01, 0.98, 25), repeat=2)
        for logp in [optimum.chain_logp(_chain(a, c), WORDS, LENGTH).reshape(-1)]
    )
    assert found[0].value <= coarse + 1e-9


def _chain(a: float, c: float) -> np.ndarray:
    first, last = np.log([a, 0.99 - a, 0.01]), np.log([c, 0.99 - c, 0.01])
    return np.concatenate([first, np.tile(np.log([0.005, 0.005, 0.99]), 3), np.tile(last, 3)])


# Two dialects ---------------------------------------------------------------------------------------------------------


def test_the_teacher_is_the_grammar_with_slips():
    small = dialects.Dialects(share=0.6, slip=0.02)
    assert np.exp(small.logp).sum() == pytest.approx(1)
    index = next(i for i in range(len(small.logp)) if dialects.sentence(i) == "he often asked himself")
    stays, becomes = 0.98 + 0.02 / len(dialects.WORDS), 0.02 / len(dialects.WORDS)
    clean = {(f, a, v, e): s * p * q
             for (f, e), s in zip(dialects.ENDS, (0.6, 0.4), strict=True)
             for a, p in dialects.MIDDLE[0].items() for v, q in dialects.MIDDLE[1].items()}  # fmt: skip
    said = ["he", "often", "asked", "himself"]
    by_hand = sum(
        p * math.prod(stays if x == y else becomes for x, y in zip(meant, said, strict=True)) for meant, p in clean.items()
    )
    assert math.exp(small.logp[index]) == pytest.approx(by_hand)


def test_kinds_of_sentences():
    kinds = dialects.kinds()
    by_text = {dialects.sentence(i): dialects.KINDS[kind] for i, kind in enumerate(kinds)}
    assert by_text["he never saw himself"] == "he … himself"
    assert by_text["she never saw herself"] == "she … herself"
    assert by_text["he never saw herself"] == "mixed"
    assert by_text["he he saw herself"] == "slipped"


@pytest.mark.parametrize("window", [1, dialects.LENGTH])
def test_a_student_sees_as_many_words_as_its_window(window):
    student = students.Student(window, width=8)
    model = nnx.merge(student.architecture.graphdef, student.architecture.init(0))
    table = jnp.asarray(students.sequence_logp(model, window)).reshape((len(dialects.WORDS),) * dialects.LENGTH)
    assert float(jnp.exp(table).sum()) == pytest.approx(1, abs=1e-5)
    last = jax.nn.log_softmax(table, -1)  # log p(last word | all before)
    differs = float(jnp.abs(last[0] - last[1]).max())  # by the first word
    assert differs < 1e-5 if window == 1 else differs > 1e-3


@pytest.fixture(scope="module")
def short():
    said = []
    found = modes.study(dialects.Dialects(slip=0.05), seeds=1, steps=150, starts=1, say=said.append)
    assert len(said) == 3 * len(modes.NAMES)
    return found


def test_students_come_near_the_optimum_and_none_is_below_it(short):
    for name in modes.NAMES:
        (student,) = modes_report.of(short, "student", name)
        assert -1e-4 < student.above < 0.05, name


def test_forward_covers_and_mixes_where_reverse_seeks(short):
    (teacher,) = modes_report.of(short, "teacher")
    (forward,), (reverse,) = (modes_report.of(short, "student", name) for name in ("forward_kl", "reverse_kl"))
    assert min(forward.mass["he … himself"], forward.mass["she … herself"]) > 0.05
    assert forward.mass["mixed"] > 0.3 > 0.1 > reverse.mass["mixed"]
    assert min(reverse.mass["he … himself"], reverse.mass["she … herself"]) < 0.02
    assert forward.entropy > teacher.entropy > reverse.entropy
    assert forward.distinct > reverse.distinct
    assert forward.forward_kl < reverse.forward_kl and reverse.reverse_kl < forward.reverse_kl


def test_figures_of_a_distribution_by_hand():
    teacher = dialects.Dialects()
    flat = np.full(len(teacher.logp), -math.log(len(teacher.logp)))
    found = modes.describe("student", flat, teacher, "forward_kl", best=0.0)
    p = np.exp(teacher.logp)
    assert found.entropy == pytest.approx(math.log(len(p)))
    assert found.forward_kl == pytest.approx(p @ (teacher.logp - flat))
    assert found.value == pytest.approx(found.forward_kl)
    assert found.distinct == pytest.approx(len(p) * (1 - (1 - 1 / len(p)) ** modes.DRAWS))


def test_modes_are_written(short, tmp_path, capsys):
    modes_report.plot(short, tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    results.write({"seeds": 1}, short, tmp_path / "m.json")
    assert len(json.loads((tmp_path / "m.json").read_text("utf-8"))["found"]) == len(short)
    modes_report.show(short)
    said = capsys.readouterr().out
    assert "Forward KL covers" in said
    assert said.count("…") == said.count("he … himself") + said.count("she … herself")  # nothing of the table is cut


# Forgetting -----------------------------------------------------------------------------------------------------------


def test_r_squared_by_hand():
    x, y = [0.0, 1.0, 2.0], [0.0, 1.0, 1.0]  # best line y = 1/6 + x/2: residuals −1/6, 1/3, −1/6; total variance 2/3
    assert forgetting.explained(x, y, 1) == pytest.approx(1 - (1 / 6) / (2 / 3))
    assert forgetting.explained(x, y, 2) == pytest.approx(1)


def test_every_target_solves_the_new_task_and_nearest_is_the_least_kl():
    tasks, rng = TwoTasks(0), np.random.default_rng(0)
    right = tasks.right(NEW)
    base = rng.dirichlet(np.ones(right[0].size), size=len(right)).reshape(right.shape)
    with np.errstate(divide="ignore"):
        logs = {name: np.log(make(right, base, 0)).reshape(len(right), -1) for name, make in adapting.TARGETS.items()}
        log_base = np.log(base).reshape(len(right), -1)
    kls = {name: oracle.kl(log, log_base) for name, log in logs.items()}
    for name, log in logs.items():
        assert (np.exp(log) * right.reshape(len(right), -1)).sum(-1) == pytest.approx(1), name
        assert (kls["nearest"] <= kls[name] + 1e-9).all(), name
    np.testing.assert_allclose(kls["nearest"], -np.log(np.where(right, base, 0).sum((1, 2))))
    assert kls["farthest"].mean() > kls["at random"].mean()


def test_the_right_answers_of_both_tasks_agree_in_sentiment():
    tasks = TwoTasks(1)
    old, new = tasks.right(OLD), tasks.right(NEW)
    assert (old.sum((1, 2)) == len(two_tasks.DEGREES)).all()
    assert (old <= new).all()
    for task in (OLD, NEW):
        np.testing.assert_allclose(tasks.before(task).sum((1, 2)), 1)
    np.testing.assert_allclose((tasks.before(NEW) * new).sum((1, 2)), two_tasks.KNOWN)


def test_answers_are_scored_as_the_decoder_scores_whole_sentences():
    arch = adapting.architecture(width=8)
    model, prompts = nnx.merge(arch.graphdef, arch.init(0)), jnp.asarray(TwoTasks(0).prompts(NEW)[:2])
    table = adapting.answers_logp(model, prompts)
    assert float(jnp.exp(table).sum((1, 2)).max()) == pytest.approx(1, abs=1e-5)
    tokens = jnp.concatenate([prompts, jnp.array([[3, 7], [1, 20]])], axis=1)
    scored = adapting.token_logp(model, tokens, jnp.ones(tokens.shape, bool))[:, -2:].sum(-1)
    np.testing.assert_allclose(scored, [table[0, 3, 7], table[1, 1, 20]], atol=1e-5)


@pytest.fixture(scope="module")
def few():
    settings = forgetting.Settings(seeds=1, rates=(3e-3,), betas=(0.0,), levels=(0.6,), base_steps=60, most_steps=60, every=10)
    return forgetting.study(settings, say=lambda sentence: None)


def test_runs_are_taken_where_they_reach_the_reward(few):
    assert {one.method for one in few} >= {"SFT, nearest", "SFT, farthest"}
    for one in few:
        assert one.reward >= one.level == 0.6
        assert one.forward_kl >= 0 and one.reverse_kl >= 0
        assert one.forward_kl + one.reverse_kl > 0.01


def test_forgetting_is_written(few, tmp_path, capsys):
    forgetting_report.plot(few, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    results.write({"seeds": 1}, few, tmp_path / "f.json")
    forgetting_report.show(few)
    assert "forward KL(base‖adapted)" in capsys.readouterr().out


def test_a_run_that_has_not_moved_has_lost_nothing():
    arch, tasks = adapting.architecture(width=8), TwoTasks(0)
    bases = [(tasks, arch.init(0))]
    measure, before = forgetting.measurement(arch, bases, [0, 0])
    _, forward, reverse, nats, accuracy = measure((adapting.stacked([bases[0][1]] * 2),))
    np.testing.assert_allclose([forward, reverse], 0, atol=1e-6)
    np.testing.assert_allclose(nats, before[3])
    np.testing.assert_allclose(accuracy, before[4])


def test_the_divergence_of_the_students_is_that_of_the_judge():
    p, q = np.random.default_rng(2).dirichlet(np.ones(9), size=2)
    for name, judge in optimum.DIVERGENCES.items():
        trained = float(divergences.DIVERGENCES[name](jnp.log(jnp.asarray(q)), jnp.log(jnp.asarray(p))))
        assert trained == pytest.approx(judge(p, q)[0], rel=1e-4)

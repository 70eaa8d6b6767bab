"""A task that is small enough to list every completion: the exact figures, by other means."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.errors import UserError
from kljax.kl import oracle
from kljax.models.decoder import causal_mask
from kljax.models.sampling import sample_jit
from kljax.rewards import combination
from kljax.runs import directory
from kljax.runs.enumeration import enumerate_task
from kljax.runs.setup import prepare
from kljax.training.loop import train

BETA = 0.5
LETTERS = [
    "data/source=letters",
    "data.source.letters=2",
    "data.source.sentences=200",
    "reward=[pairs]",
    "rollout.max_new_tokens=3",
    "data.prompt.min_tokens=0",
    "data.prompt.max_tokens=1",
]


@pytest.fixture
def letters(tiny):
    """letters(*overrides): the config of a task of two letters."""
    return lambda *overrides: tiny(*LETTERS, *overrides)


def enumerated(config, *more_ends):
    """`more_ends`: words that end a completion, too."""
    setup = prepare(config)
    ends = sorted([*setup.generation.ends, *setup.tokenizer.convert_tokens_to_ids(list(more_ends))])
    setup = replace(setup, generation=replace(setup.generation, ends=tuple(ends)))
    reference = setup.architecture.init(0)
    return (
        setup,
        reference,
        enumerate_task(setup, setup.prompts(), combination.build(config.reward, setup.tokenizer), reference),
    )


@pytest.mark.parametrize("more_ends", [(), ("a",)])
def test_the_probabilities_of_all_completions_sum_to_one_and_are_those_of_sampling(letters, more_ends):
    setup, reference, exact = enumerated(letters(), *more_ends)
    prompts = setup.prompts()
    row = int(np.flatnonzero(~prompts.mask[:, 0])[0])  # a prompt that is the beginning alone
    samples = 4096
    chosen = prompts.select(np.array([row]))
    rollout = sample_jit(setup.architecture.graphdef, reference, chosen, jax.random.key(0), setup.sampler(samples))
    index = {sequence: i for i, sequence in enumerate(exact.tree.sequences)}
    counts = np.zeros(exact.tree.count)
    for tokens, mask in zip(np.asarray(rollout.completion), np.asarray(rollout.mask), strict=True):
        counts[index[tuple(tokens[mask].tolist())]] += 1
    p = np.exp(exact.logp(reference))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-12)
    nearest = min(np.abs(counts / samples - each).max() for each in p)
    assert nearest < 5 * np.sqrt(0.25 / samples)  # five standard errors of a frequency, at most


def test_rewards_are_those_of_a_loop_over_the_words(letters):
    setup, _, exact = enumerated(letters("reward.pairs.arguments.seed=3", "data.prompt.max_tokens=0"))
    values = np.random.default_rng(3).normal(size=(len(setup.tokenizer),) * 2).astype(np.float32)
    bos = setup.tokenizer.bos_token_id
    expected = [sum(values[a, b] for a, b in itertools.pairwise((bos, *s))) for s in exact.tree.sequences]
    np.testing.assert_allclose(exact.reward[0], expected, rtol=1e-5)


def test_the_reference_is_beta_times_its_kl_to_the_optimum_below_it(letters):
    _, reference, exact = enumerated(letters())
    metrics = exact.metrics(reference, BETA)
    assert abs(metrics["oracle/kl_to_reference"]) < 1e-12
    gap = metrics["oracle/optimal_objective"] - metrics["oracle/objective"]
    assert metrics["oracle/regret"] == pytest.approx(gap, rel=1e-9)
    assert metrics["oracle/kl_to_optimum"] == pytest.approx(gap / BETA, rel=1e-9)
    assert metrics["oracle/objective"] == pytest.approx(metrics["oracle/reward"], rel=1e-9)


def test_prompts_count_as_often_as_they_occur(letters):
    setup, reference, exact = enumerated(letters())
    assert len(exact.share) > 1
    first_letters = setup.prompts().tokens[:, -1]
    assert sorted(exact.share) == pytest.approx(sorted(np.unique(first_letters, return_counts=True)[1] / len(first_letters)))
    alone = [oracle.optimum(*problem, BETA).objective for problem in zip(exact.ref_logp, exact.reward, strict=True)]
    assert exact.metrics(reference, BETA)["oracle/optimal_objective"] == pytest.approx(float(exact.share @ alone))


def test_a_python_reward_is_enumerated_too(letters):
    setup, _, exact = enumerated(letters("reward=[regex]", "reward.regex.arguments.pattern=a"))
    a = setup.tokenizer.get_vocab()["a"]
    np.testing.assert_array_equal(exact.reward[0], [float(a in sequence) for sequence in exact.tree.sequences])


def test_where_columns_tell_rows_apart_the_reward_of_a_prompt_is_the_mean_over_them(letters, tmp_path, monkeypatch):
    """The optimum is that of the mean: what a policy that sees the prompt alone can do about it."""
    (tmp_path / "by_column.py").write_text(
        "def ends_alike(completions, text):\n    return [float(c[-1:] == t[-1:]) for c, t in zip(completions, text)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = letters("reward=python", "reward.python.function=by_column.ends_alike", "data.prompt.max_tokens=0")
    setup = prepare(config)
    prompts, reference = setup.prompts(), setup.architecture.init(0)
    reward = combination.build(config.reward, setup.tokenizer)  # its columns are found out by what it asks for
    assert reward.reads_columns
    exact = enumerate_task(setup, prompts, reward, reference)
    last = [text[-1] for text in prompts.rows["text"]]
    words = [setup.tokenizer.decode(list(s), skip_special_tokens=True) for s in exact.tree.sequences]
    expected = [np.mean([word[-1:] == letter for letter in last]) for word in words]
    np.testing.assert_allclose(exact.reward[0], expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_optimum_is_at_the_temperature_of_sampling(letters, temperature):
    """Against a loop over the words: the reference's softmax of logits that are divided by it, token by token."""
    setup, reference, exact = enumerated(letters(f"rollout.temperature={temperature}", "data.prompt.max_tokens=0"))
    model = nnx.merge(setup.architecture.graphdef, reference)
    expected = []
    for sequence in exact.tree.sequences:
        tokens = jnp.array([[setup.tokenizer.bos_token_id, *sequence]])
        hidden, _ = model(tokens, jnp.arange(tokens.shape[1])[None], causal_mask(jnp.ones(tokens.shape, bool)))
        logp = jax.nn.log_softmax(model.logits(hidden)[0] / temperature)
        expected.append(sum(float(logp[i, token]) for i, token in enumerate(sequence)))
    np.testing.assert_allclose(exact.ref_logp[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("kl/divergence=chi_squared", "kl.divergence is chi_squared"),
        ("reward_scale=batch_std", "reward_scale=batch_std beta acts"),
    ],
)
def test_an_objective_whose_optimum_is_another_is_refused(letters, tmp_path, override, why):
    with pytest.raises(UserError, match=f"run.oracle_every: .*{why}.*set run.oracle_every=0"):
        train(letters("run.oracle_every=1", override))
    assert not (tmp_path / "runs").exists()


def test_a_run_logs_the_exact_figures_and_their_regret_falls(letters):
    config = letters(
        "run.oracle_every=10", "steps=41", "optimizer.learning_rate=0.02", "rollout.samples=16", "run.save_every=41"
    )
    lines = directory.read_lines(train(config) / "metrics.jsonl")
    regret = {line["step"]: line["oracle/regret"] for line in lines if "oracle/regret" in line}
    assert list(regret) == [0, 10, 20, 30, 40]
    assert 0 <= regret[40] < 0.5 * regret[0]


def test_a_task_too_large_to_list_is_refused_before_anything_is_fitted(tiny, tmp_path):
    with pytest.raises(UserError, match=r"run.oracle_every: this task cannot be enumerated .* expected at most 200,000"):
        train(tiny("run.oracle_every=1"))
    assert not (tmp_path / "runs").exists()


def test_too_many_prompts_are_refused(letters):
    config = letters(
        "data.source.letters=5", "data.source.sentences=2000", "data.prompt.max_tokens=3", "rollout.max_new_tokens=5"
    )
    with pytest.raises(UserError, match=r"distinct prompts of 19,608 completions each"):
        enumerated(config)

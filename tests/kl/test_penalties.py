"""The heart: the expected gradient of each penalty, by enumeration of all sequences, against the oracle's.

Tabular policies on trees; every sequence is padded and masked, goes through the real penalty and the real loss of the
training step, and is weighed by its probability under whoever sampled it. Under the padding lie NaN and inf.
"""

import dataclasses
import functools
import inspect
import itertools
import typing
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.config import Config, KlConfig
from kljax.kl import divergences, oracle
from kljax.kl.penalties import PENALTIES
from kljax.kl.sequences import importance_weights, on_policy
from kljax.policy.advantages import leave_one_out, no_baseline
from kljax.policy.algorithms import ALGORITHMS, Algorithm
from kljax.policy.losses import score_function
from kljax.policy.scaling import unscaled
from kljax.training import step
from kljax.types import Scores

BETA = 0.7
SHAPES = [(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2), (5, 3)]  # vocabulary, longest sequence
SAMPLERS = ["on_policy", "off_policy"]


@dataclass(frozen=True)
class Forest:
    """Problems in one table, so that one program serves them all: states below one another, the rest of a row forbidden."""

    problems: tuple[oracle.Problem, ...]

    def wide(self, tables):
        width = max(table.shape[1] for table in tables)
        return np.concatenate(
            [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-np.inf) for table in tables]
        )

    def long(self, arrays):
        """Each [B, T] of a tree, filled up with padding."""
        longest = max(problem.tree.depth for problem in self.problems)
        return np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in arrays])

    @cached_property
    def logits(self):
        return self.wide([problem.logits for problem in self.problems])

    @cached_property
    def ref_logits(self):
        return self.wide([problem.ref_logits for problem in self.problems])

    @cached_property
    def behaviour_tables(self):
        """Of the policy that sampled, off-policy: half a standard deviation from the one that is trained."""
        rng = np.random.default_rng(len(self.problems))
        return [problem.logits + 0.5 * rng.normal(size=problem.logits.shape) for problem in self.problems]

    @cached_property
    def arrays(self):
        """tokens, mask, rows of the states, reward: all sequences of all trees."""
        trees = [problem.tree for problem in self.problems]
        offsets = np.cumsum([0] + [len(tree.states) for tree in trees])
        rows = [tree.rows + offset for tree, offset in zip(trees, offsets[:-1], strict=True)]
        return (
            self.long([tree.tokens for tree in trees]),
            self.long([tree.mask for tree in trees]),
            self.long(rows),
            np.concatenate([problem.reward for problem in self.problems]),
        )

    def probability(self, sampler):
        tables = self.behaviour_tables if sampler == "off_policy" else [problem.logits for problem in self.problems]
        pairs = zip(self.problems, tables, strict=True)
        return np.concatenate([np.exp(oracle.sequence_logp(problem.tree, table)) for problem, table in pairs])

    def trees(self, table):
        """The part of each problem, in its own shape."""
        ends = np.cumsum([len(problem.tree.states) for problem in self.problems])
        blocks = np.split(np.asarray(table, np.float64), ends[:-1])
        return [block[:, : problem.tree.vocab] for block, problem in zip(blocks, self.problems, strict=True)]


def forest_of(seeds, shapes=SHAPES):
    return Forest(tuple(oracle.random_tree(seed, *shapes[seed % len(shapes)]) for seed in seeds))


@functools.cache
def trees_of_all_shapes():
    return forest_of(range(20))


def score(forest, table, divergence=divergences.reverse_kl, poison=True):
    """Scores of every token of every sequence, with NaN and inf under the padding."""
    tokens, mask, rows, _ = forest.arrays
    dtype = table.dtype
    logits, ref_logits = table[rows], jnp.asarray(forest.ref_logits, dtype)[rows]
    leak = jnp.sum(table[:, 0])  # so that what leaks is seen in the gradient too

    def chosen(x):
        return jnp.take_along_axis(jax.nn.log_softmax(x), tokens[..., None], -1)[..., 0]

    def spoil(x, value):
        return jnp.where(mask, x, value + leak) if poison else jnp.where(mask, x, 0.0)

    return Scores(
        logp=spoil(chosen(logits), jnp.nan),
        ref_logp=spoil(chosen(ref_logits), -jnp.inf),
        reverse_kl=spoil(divergences.reverse_kl(logits, ref_logits), jnp.inf),
        forward_kl=spoil(divergences.forward_kl(logits, ref_logits), jnp.nan),
        divergence=spoil(divergence(logits, ref_logits), jnp.inf),
        entropy=spoil(divergences.entropy(logits), jnp.nan),
    )


def weights_of(forest, sampler, scores, poison=True):
    tokens, mask, rows, _ = forest.arrays
    if sampler == "on_policy":
        return on_policy(jnp.asarray(mask))
    behaviour = oracle.log_softmax(forest.wide(forest.behaviour_tables))[rows, tokens]
    behaviour = jnp.asarray(np.where(mask, behaviour, np.nan if poison else 0.0), scores.logp.dtype)
    return importance_weights(scores.logp, behaviour, jnp.asarray(mask))


def training_loss(name, scores, mask, reward, weights, baseline=no_baseline):
    """The training step's own, without the model and the mesh that its type asks for."""
    samples = mask.shape[0]
    parts = SimpleNamespace(
        penalty=PENALTIES[name],
        algorithm=Algorithm(baseline, score_function, samples),
        reward_scale=unscaled,
        sampler=SimpleNamespace(samples=samples),
    )
    return inspect.unwrap(step.loss)(parts, scores, mask, reward, jnp.asarray(BETA, scores.logp.dtype), weights)[0]


def losses(forest, name, sampler, table, divergence=divergences.reverse_kl, poison=True):
    """The loss of each sequence alone: [B]."""
    scores = score(forest, table, divergence, poison)
    _, mask, _, reward = (jnp.asarray(x) for x in forest.arrays)
    weights = weights_of(forest, sampler, scores, poison)

    def of_one(*sequence):
        scores, mask, reward, weights = jax.tree.map(lambda x: x[None], sequence)
        return training_loss(name, scores, mask, reward, weights)

    return jax.vmap(of_one)(scores, mask, reward.astype(table.dtype), weights)


def surrogate_gradient(forest, name, sampler, table, **options):
    """The gradient of the code's loss, every sequence weighed by its probability."""
    probability = jnp.asarray(forest.probability(sampler), table.dtype)
    return jax.grad(lambda table: jnp.sum(probability * losses(forest, name, sampler, table, **options)))(table)


def reward_gradient(problem):
    """∇E[reward] = Σ π(y) r(y) ∇log π(y), sequence after sequence."""
    tree, p = problem.tree, np.exp(oracle.log_softmax(problem.logits))
    gradient = np.zeros_like(p)
    for sequence, probability, reward in zip(
        tree.sequences, np.exp(oracle.sequence_logp(tree, problem.logits)), problem.reward, strict=True
    ):
        for t, token in enumerate(sequence):
            row = tree.states[sequence[:t]]
            gradient[row] += probability * reward * (np.eye(tree.vocab)[token] - p[row])
    return gradient


def expected_gradient(problem, name, divergence="reverse_kl", **parameters):
    """Of the loss, −J: beta times what the oracle says of the penalty, less the gradient of the expected reward."""
    return BETA * oracle.penalty(problem, name, divergence, **parameters).gradient - reward_gradient(problem)


def error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@functools.cache
def gradients(dtype):
    """Of all penalties and both samplers, on all trees: one program for each dtype."""
    forest = trees_of_all_shapes()
    with jax.enable_x64(dtype == "float64"):

        @jax.jit
        def compute(table):
            cases = itertools.product(PENALTIES, SAMPLERS)
            return {case: surrogate_gradient(forest, *case, table) for case in cases}

        return {case: forest.trees(table) for case, table in compute(jnp.asarray(forest.logits, dtype)).items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", PENALTIES)
def test_each_penalty_has_the_gradient_that_the_table_states(name, sampler, dtype, tolerance):
    """On 20 random trees, together with the gradient of the reward, so that neither can have the other's sign."""
    problems = trees_of_all_shapes().problems
    for problem, actual in zip(problems, gradients(dtype)[name, sampler], strict=True):
        assert error(actual, expected_gradient(problem, name)) < tolerance, problem.tree


def test_the_trees_end_at_different_lengths_and_the_samplers_differ():
    """Or the test above would show less than it says."""
    forest = trees_of_all_shapes()
    _, mask, _, _ = forest.arrays
    assert set(mask.sum(1)) == {1, 2, 3, 4}
    policy, behaviour = (forest.probability(sampler) for sampler in SAMPLERS)
    np.testing.assert_allclose((policy.sum(), behaviour.sum()), len(forest.problems), rtol=1e-12)
    assert np.quantile(behaviour / policy, 0.9) > 1.5


def test_the_stated_gradients_differ():
    """Or the test above could not tell one penalty from another."""
    problem = oracle.random_tree(1, 4, 3)
    stated = {PENALTIES[name].gradient: oracle.penalty(problem, name).gradient for name in PENALTIES}
    assert len(stated) == 6
    for a, b in itertools.combinations(stated.values(), 2):
        assert np.linalg.norm(a - b) > 0.1 * max(np.linalg.norm(a), np.linalg.norm(b))


DIVERGENCES = {
    "forward_kl": {},
    "jeffreys": {},
    "jensen_shannon": {"mix": 0.3},
    "renyi .5": {"alpha": 0.5},
    "renyi 2": {"alpha": 2.0},
    "alpha_divergence −1": {"alpha": -1.0},
    "alpha_divergence .5": {"alpha": 0.5},
    "alpha_divergence 2": {"alpha": 2.0},
    "chi_squared": {},
    "total_variation": {},
    "squared_hellinger": {},
}


EXACT = [("exact", "off_policy"), ("exact_token", "on_policy")]


@functools.cache
def gradients_of_divergences():
    forest = forest_of(range(4), [(4, 3)])
    with jax.enable_x64(True):

        @jax.jit
        def compute(table):
            return {
                (label, *case): surrogate_gradient(forest, *case, table, divergence=divergence_of(label))
                for label in DIVERGENCES
                for case in EXACT
            }

        return forest.problems, {case: forest.trees(table) for case, table in compute(jnp.asarray(forest.logits)).items()}


def divergence_of(label):
    return partial(getattr(divergences, label.split()[0]), **DIVERGENCES[label])


@pytest.mark.parametrize(("name", "sampler"), EXACT)
@pytest.mark.parametrize("label", DIVERGENCES)
def test_the_exact_penalties_have_the_gradient_of_any_divergence(label, name, sampler):
    problems, actual = gradients_of_divergences()
    for problem, gradient in zip(problems, actual[label, name, sampler], strict=True):
        expected = expected_gradient(problem, name, label.split()[0], **DIVERGENCES[label])
        assert error(gradient, expected) < 1e-9


def test_only_the_penalties_that_say_so_take_another_divergence(x64):
    forest = forest_of([0], [(3, 2)])

    @jax.jit
    def compute(table):
        return {
            name: [
                losses(forest, name, "on_policy", table, function)
                for function in (divergences.reverse_kl, divergences.chi_squared)
            ]
            for name in PENALTIES
        }

    for name, (reverse, other) in compute(jnp.asarray(forest.logits)).items():
        assert np.allclose(reverse, other) != PENALTIES[name].takes_divergence, name


def test_leave_one_out_keeps_the_gradient_of_what_is_taken_from_the_reward_on_and_off_policy(x64):
    """Over all pairs of samples of one prompt, the returns of each token compared at the same time step."""
    forest = forest_of([1])  # 15 sequences: 225 pairs
    problem = forest.problems[0]
    _, mask, _, reward = (jnp.asarray(x) for x in forest.arrays)
    first, second = (x.ravel() for x in np.indices((problem.tree.count, problem.tree.count)))

    def expected_loss(table, name, sampler):
        scores = score(forest, table)
        weights, probability = weights_of(forest, sampler, scores), forest.probability(sampler)
        batch = scores, mask, reward, weights
        pairs = jax.tree.map(lambda x: jnp.stack([x[first], x[second]], axis=1), batch)
        each = jax.vmap(lambda *pair: training_loss(name, *pair, baseline=leave_one_out))(*pairs)
        return jnp.sum(probability[first] * probability[second] * each)

    @jax.jit
    def compute(table):
        in_reward = "exact", "k1_reward", "k2_reward", "k3_reward", "k2_loss"  # all there is, and nothing
        return {case: jax.grad(expected_loss)(table, *case) for case in itertools.product(in_reward, SAMPLERS)}

    for (name, sampler), actual in compute(jnp.asarray(problem.logits)).items():
        assert error(actual, expected_gradient(problem, name)) < 1e-9, (name, sampler)


def test_nothing_under_the_padding_reaches_a_loss(x64):
    """Nor its gradient: the padding is spoilt in all other tests here too."""
    forest = forest_of(range(2))

    @jax.jit
    def compute(table):
        cases = itertools.product(PENALTIES, SAMPLERS)
        return {case: [losses(forest, *case, table, poison=poison) for poison in (True, False)] for case in cases}

    for case, (spoilt, clean) in compute(jnp.asarray(forest.logits)).items():
        np.testing.assert_allclose(spoilt, clean, rtol=1e-12, atol=1e-14, err_msg=str(case))


def two_steps():
    """Claim 2: after token 1, which policy and reference both allow, they differ widely; after token 0 they agree."""
    tree = oracle.Tree(vocab=2, depth=2, ends=())
    policy = np.log([[0.5, 0.5], [0.5, 0.5], [0.01, 0.99]])
    reference = np.log([[0.25, 0.75], [0.5, 0.5], [0.99, 0.01]])
    return Forest((oracle.Problem(tree, policy, reference, np.zeros(4)),))


def test_a_token_local_penalty_can_push_the_wrong_way(x64):
    """The gradient in the first step's logit of the token that leads away from rho."""
    forest = two_steps()
    expected = dict.fromkeys(("exact", "k1_reward"), 0.85115)
    expected |= dict.fromkeys(("exact_token", "k2_loss", "weighted_k3_loss"), -0.27465)

    @jax.jit
    def compute(table):
        return {name: surrogate_gradient(forest, name, "on_policy", table)[0, 1] / BETA for name in expected}

    assert compute(jnp.asarray(forest.logits)) == pytest.approx(expected, abs=5e-6)


def test_the_exact_penalty_has_less_variance_than_sampled_k1(x64):
    """Over single-sequence gradients of random trees; not a theorem, but what the default is chosen for."""
    problems = [oracle.random_tree(seed, 4, 3) for seed in range(8)]
    forest = Forest(tuple(dataclasses.replace(problem, reward=np.zeros(problem.tree.count)) for problem in problems))
    probability = forest.probability("on_policy")
    each_tree = np.repeat(np.arange(len(problems)), [problem.tree.count for problem in problems])

    @jax.jit
    def compute(table):
        return [jax.jacobian(lambda table, name=name: losses(forest, name, "on_policy", table))(table) for name in NOISY]

    variances = []
    for each in compute(jnp.asarray(forest.logits)):
        of_tree = [(probability[each_tree == i], np.asarray(each)[each_tree == i]) for i in range(len(problems))]
        variances.append([np.sum(np.tensordot(p, (x - np.tensordot(p, x, 1)) ** 2, 1)) for p, x in of_tree])
    k1, exact = np.array(variances)
    assert np.median(k1 / exact) > 2


NOISY = "k1_reward", "exact"


def plain_scores(logp, ref_logp):
    rest = jnp.zeros_like(logp)
    return Scores(logp=logp, ref_logp=ref_logp, reverse_kl=rest, forward_kl=rest, divergence=rest, entropy=rest)


def random_terms():
    """Scores and weights of 3 completions of 2 to 4 tokens."""
    rng, mask = np.random.default_rng(0), np.arange(4) < np.array([4, 2, 3])[:, None]
    logp, ref_logp, behaviour_logp = (jnp.asarray(x) for x in np.log(rng.uniform(0.1, 0.9, size=(3, 3, 4))))
    scores = dataclasses.replace(plain_scores(logp, ref_logp), divergence=jnp.asarray(rng.uniform(size=(3, 4))))
    return scores, jnp.asarray(mask), importance_weights(logp, behaviour_logp, jnp.asarray(mask))


def test_exact_terms_weigh_a_state_by_the_tokens_before_it_and_by_no_other(x64):
    """Its own token's weight would be right on average too, and only add variance."""
    scores, mask, weights = random_terms()
    here = [[weights.state[b, t] * scores.divergence[b, t] if mask[b, t] else 0.0 for t in range(4)] for b in range(3)]
    np.testing.assert_allclose(PENALTIES["exact"].to_loss(scores, mask, weights), here, rtol=1e-12)
    np.testing.assert_allclose(PENALTIES["exact_token"].to_loss(scores, mask, weights), here, rtol=1e-12)
    later = [[sum(row[t + 1 :]) for t in range(4)] for row in here]
    np.testing.assert_allclose(PENALTIES["exact"].from_reward(scores, mask, weights), later, atol=1e-12)


@pytest.mark.parametrize("here", [1e9, jnp.inf])
def test_the_divergence_of_later_states_does_not_hang_on_a_large_one_here(here):
    """Not even its digits: chi-squared, say, may be anything."""
    mask, blank = jnp.ones((1, 3), bool), jnp.zeros((1, 3))
    scores = dataclasses.replace(plain_scores(blank, blank), divergence=jnp.array([[here, 1.0, 2.0]]))
    np.testing.assert_array_equal(PENALTIES["exact"].from_reward(scores, mask, on_policy(mask)), [[3.0, 2.0, 0.0]])


def test_what_is_taken_from_the_reward_carries_no_gradient(x64):
    scores, mask, weights = random_terms()
    for name, penalty in PENALTIES.items():
        gradient = jax.grad(lambda scores, penalty=penalty: penalty.from_reward(scores, mask, weights).sum())(scores)
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient)), name


@pytest.mark.parametrize("name", ["k3_loss", "weighted_k3_loss", "k3_reward"])
def test_a_weight_that_underflows_does_not_make_nan_of_a_k3_that_overflows(name):
    """Off-policy w·exp(−u) is rho/mu: finite, here 1, however little is left of pi."""
    mask, mu, penalty = jnp.array([[True]]), jnp.array([[-1.0]]), PENALTIES[name]

    def term(logp):
        arguments = plain_scores(logp, mu), mask, importance_weights(logp, mu, mask)
        return jnp.sum(penalty.to_loss(*arguments) + penalty.from_reward(*arguments))

    value, gradient = jax.jit(jax.value_and_grad(term))(jnp.array([[-111.0]]))
    np.testing.assert_allclose(value, 1.0, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_token_that_the_reference_forbids_is_named():
    logp, mask = jnp.full((2, 3), -1.0), jnp.ones((2, 3), bool)
    scores = plain_scores(logp, logp.at[1, 2].set(-jnp.inf))
    with pytest.raises(ValueError, match="sequence 1, token 2"):
        PENALTIES["k1_reward"].from_reward(scores, mask, on_policy(mask))


def test_the_config_knows_every_row_of_the_tables():
    hints = typing.get_type_hints(KlConfig)["penalty"], typing.get_type_hints(Config)["algorithm"]
    assert set(typing.get_args(hints[0])) == set(PENALTIES)
    assert set(typing.get_args(hints[1])) == set(ALGORITHMS)

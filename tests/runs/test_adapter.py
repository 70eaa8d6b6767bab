"""What is trained, what is frozen and what the policy is held to, in every combination that is allowed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from kljax.fitting import fit as fitting
from kljax.fitting.fit import ensure_base, load_base
from kljax.models.layers import stack
from kljax.models.lora import merge
from kljax.models.scoring import score
from kljax.rewards import model as rewards
from kljax.runs import directory
from kljax.runs.adapter import cast
from kljax.runs.checkpoints import load_fitted, load_frozen
from kljax.runs.reference import first_reference
from kljax.runs.restore import restore
from kljax.runs.setup import base_path, prepare
from kljax.training.loop import train
from kljax.training.trainer import MAX_KL_AT_START, build_trainer, check_zero_kl

LORA = ["adapter=lora", "adapter.rank=2", "optimizer.learning_rate=0.05"]
MOVING = ["reference/refresh=every", "reference.refresh.steps=2"]
AVERAGE = ["reference/refresh=average", "reference.refresh.decay=0.5"]
LOW = ["reference.dtype=bfloat16"]
CHOICES = {
    "a copy": [],
    "a copy in bfloat16": LOW,
    "the LoRA base": LORA,
    "the LoRA base in bfloat16": [*LORA, "model.param_dtype=bfloat16"],
    "refreshed every two steps": MOVING,
    "refreshed every two steps, in bfloat16": [*MOVING, *LOW],
    "an average": AVERAGE,
    "adapters, refreshed": [*LORA, *MOVING],
    "an average of adapters": [*LORA, *AVERAGE],
}


def equal(actual, expected):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: a.dtype == b.dtype and bool(jnp.array_equal(a, b)), actual, expected)))


@pytest.mark.parametrize("choice", CHOICES)
def test_kl_is_zero_at_the_start_for_every_reference(tiny, choice):
    # Both models read the completions in one pass: their numbers are the same to the last digit
    trainer = build_trainer(prepare(tiny(*CHOICES[choice], "rollout.keep_activations=false")))
    setup = trainer.setup
    # As far from uniform as a trained model: fresh weights would hide what a lower precision does
    base = jax.tree.map(lambda p: 4 * p, setup.architecture.init(0))
    kl = check_zero_kl(trainer, base, first_reference(setup, base))
    assert kl < MAX_KL_AT_START[setup.config.reference.dtype]
    assert (kl == 0) == ("reference.dtype=bfloat16" not in CHOICES[choice])


def test_the_frozen_model_is_held_once_under_lora(tiny):
    """The step's arguments: adapters, two moments of each, and one copy of the weights."""
    trainer = build_trainer(prepare(tiny(*LORA, "run.unroll_layers=false")))
    base = trainer.setup.architecture.init(0)
    frozen = trainer.freeze(base, first_reference(trainer.setup, base))
    assert frozen.reference is None
    assert frozen.base is base
    state = trainer.initial_state(base, base)
    count = sum(leaf.size for leaf in jax.tree.leaves(trainer.parts.adaptation.shapes))
    assert sum(leaf.size for leaf in jax.tree.leaves((state.params, state.opt_state))) < 3 * count + 10
    assert count < 0.5 * sum(leaf.size for leaf in jax.tree.leaves(base))


def test_a_base_model_that_is_held_in_bfloat16_is_fitted_in_float32(tiny):
    """To the bit the one that is held in float32; it is rounded when it is frozen."""
    setup, low = prepare(tiny()), prepare(tiny("adapter=lora", "model.param_dtype=bfloat16"))
    fitted, of_low = (load_base(setup, ensure_base(one)) for one in (setup, low))
    assert base_path(setup) != base_path(low)
    assert equal(of_low, fitted)
    assert equal(load_base(low, base_path(low)), cast(fitted, "bfloat16"))
    fitting._save(base_path(low) / "export", low, of_low, (), low.tokenizer)
    tensors = load_file(base_path(low) / "export" / "model.safetensors")
    np.testing.assert_array_equal(tensors["transformer.wte.weight"], fitted["embed"]["embedding"])


def test_the_merged_policy_over_a_bfloat16_base_is_the_one_that_was_trained(tiny):
    """Its KLs to the reference are those of the step, state by state: nothing is lost in a rounded sum."""
    trainer = build_trainer(prepare(tiny(*LORA, "model.param_dtype=bfloat16", "optimizer.learning_rate=1e-3")))
    parts, arch = trainer.parts, trainer.setup.architecture
    base = jax.tree.map(lambda p: 4 * p, arch.init(0))
    state, frozen = trainer.initial_state(base, base), trainer.freeze(base, base)
    for step in range(3):
        merged = parts.adaptation.merged(state.params, base)
        state, _, outcome = trainer.take_step(state, frozen, trainer.batch(step))
    policy, reference = nnx.merge(arch.graphdef, merged), nnx.merge(arch.graphdef, base)
    sampler, rollout = parts.sampler, outcome.rollout
    scores = score(policy, reference, rollout, sampler.samples, sampler.scoring_temperature)
    expected = np.asarray(outcome.reverse_kl)
    assert expected.max() > 1e-4
    np.testing.assert_allclose(np.where(rollout.mask, scores.reverse_kl, 0.0), expected, rtol=1e-2, atol=1e-6)
    assert merged["layers"]["mlp"]["up"]["kernel"].dtype == jnp.float32
    assert merged["embed"]["embedding"].dtype == jnp.bfloat16


def test_a_lora_step_moves_the_adapters_and_the_policy_only(tiny):
    trainer = build_trainer(prepare(tiny(*LORA)))
    base = trainer.setup.architecture.init(0)
    state, frozen = trainer.initial_state(base, base), trainer.freeze(base, base)
    before = jax.tree.map(jnp.copy, state.params)
    for step in range(3):  # the warm-up's first step is 0
        state, metrics, _ = trainer.take_step(state, frozen, trainer.batch(step))
    assert not equal(state.params, before)
    assert float(metrics["kl/reverse_exact_tok"]) > 1e-6
    adapter = trainer.setup.config.adapter
    merged = trainer.parts.adaptation.merged(state.params, base)
    q, lora = base["layers"]["attention"]["q"]["kernel"], stack(state.params)["layers"]["attention"]["q"]["lora"]
    expected = merge({"kernel": q, "lora": lora}, adapter)["kernel"]
    np.testing.assert_allclose(merged["layers"]["attention"]["q"]["kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(merged["embed"]["embedding"], base["embed"]["embedding"])


@pytest.mark.parametrize("choice", ["refreshed every two steps", "an average", "adapters, refreshed", "an average of adapters"])
def test_a_moving_reference_follows_as_a_python_loop_says(tiny, choice):
    """It moves at the beginning of a step: what the state holds after one is what that step's policy was held to."""
    trainer = build_trainer(prepare(tiny(*CHOICES[choice])))
    base = trainer.setup.architecture.init(0)
    state, frozen = trainer.initial_state(base, base), trainer.freeze(base, base)
    assert frozen.reference is None
    expected = jax.device_get(state.reference)
    for step in range(4):
        now = jax.device_get(state.params)
        if "average" in choice and step:
            expected = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, expected, now)
        elif step == 2:
            expected = now
        state, metrics, _ = trainer.take_step(state, frozen, trainer.batch(step))
        assert (float(metrics["kl/reverse_exact_seq"]) < 1e-6) == (step == 0 or ("average" not in choice and step == 2))
        for a, b in zip(jax.tree.leaves(state.reference), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "overrides", [[*LORA, *MOVING, "reference.refresh.steps=4"], LOW], ids=["adapters, refreshed", "bfloat16"]
)
def test_a_resumed_run_has_the_reference_it_had(tiny, overrides):
    """Metrics of the resumed half are those of the run that was never stopped, to the bit."""
    options = [*overrides, "run.save_every=3"]
    whole = train(tiny(*options, "run.variant=whole"))
    path = train(tiny(*options, "run.variant=resumed"))
    shutil.rmtree(path / "checkpoints" / "6")
    train(tiny(*options, "run.variant=resumed"))
    metrics = [
        [
            {k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))}
            for line in directory.read_lines(p / "metrics.jsonl")
        ]
        for p in (whole, path)
    ]
    assert metrics[0] == metrics[1]
    about = json.loads((path / "model.json").read_text())["reference"]
    assert len(about["sha256"]) == 64
    restored = restore(path, "latest", tiny().mesh)
    assert not equal(restored.policy, restored.reference)


@pytest.fixture(scope="module")
def first(tiny_in, tmp_path_factory):
    """A finished run."""
    return train(compose([*tiny_in(tmp_path_factory.mktemp("first")), "optimizer.learning_rate=0.02"], Config))


def test_a_run_is_a_reference_for_another(tiny, first):
    """Its policy, not its own reference; the run says whose it is, and a copy of it lies in the run."""
    policy = restore(first, "latest", tiny().mesh).policy
    for overrides in ([], LORA):
        config = tiny(f"reference.path={first}", f"run.variant=second{len(overrides)}", *overrides)
        path = train(config)
        arch = prepare(config).architecture
        assert equal(load_frozen(path, arch.shapes, arch.shardings)[1], policy)
        about = json.loads((path / "model.json").read_text())["reference"]
        assert about["model"] == str(first)
        assert about["reverse_kl_at_start_tok_max"] < MAX_KL_AT_START["float32"]
        start = directory.read_lines(path / "metrics.jsonl")[0]
        assert start["kl/reverse_exact_tok"] > 1e-4  # the policy is the base model
        assert equal(restore(path, "latest", config.mesh).reference, policy)


def begun_from(first, step):
    """A run whose base is another run's policy at this step."""
    path = f"{first}@{step}"
    return ["model=huggingface", f"model.path={path}", "tokenizer=pretrained", f"tokenizer.path={path}", "pretrain.steps=0"]


def from_run(tiny_in, root, first, step, *overrides):
    sizes = [override for override in tiny_in(root) if not override.startswith("model.")]
    return compose([*sizes, *begun_from(first, step), *overrides], Config)


def test_a_run_is_a_model_for_another(tiny_in, tmp_path, first):
    """Of any step that was saved; its tokenizer and its ends are the run's."""
    config = from_run(tiny_in, tmp_path / "runs", first, 4, "steps=2")
    path = train(config)
    expected = restore(first, 4, config.mesh)
    found = restore(path, "latest", config.mesh)
    assert equal(found.reference, expected.policy)
    assert found.setup.generation.ends == expected.setup.generation.ends
    assert found.setup.tokenizer.get_vocab() == expected.setup.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("3", r"^model\.path: .* has no checkpoint of step 3; it has: 2, 4, 6"),
        ("last", r"^model\.path: .* the number of a step, latest or best"),
    ],
)
def test_a_step_that_a_run_has_not_is_refused(tiny_in, tmp_path, first, step, said):
    with pytest.raises(UserError, match=said):
        prepare(from_run(tiny_in, tmp_path / "runs", first, step))


def test_a_step_of_a_run_is_a_reference(tiny, first):
    setup = prepare(tiny(f"reference.path={first}@2"))
    base = setup.architecture.init(0)
    assert equal(first_reference(setup, base), restore(first, 2, tiny().mesh).policy)


def test_a_reference_that_computes_otherwise_is_refused(tiny, first):
    """Of the same shapes, so that nothing else would say it."""
    setup = prepare(tiny(f"reference.path={first}", "model.norm_eps=0.1"))
    with pytest.raises(UserError, match=r"^reference\.path: .* is another model: its norm_eps is 1e-05, the policy's 0\.1"):
        first_reference(setup, setup.architecture.init(0))


def test_a_wrong_reference_is_refused_before_anything_is_fitted(tiny):
    config = tiny("reference.path=/nowhere", "run.variant=nowhere", "pretrain.seed=77")
    with pytest.raises(UserError, match=r"^reference\.path: '/nowhere' is no directory"):
        train(config)
    assert not base_path(prepare(config)).exists()


def test_a_run_gives_no_score(first):
    with pytest.raises(UserError, match=r"^arguments\.path: .*@4 is a run whose model writes text and gives no score"):
        rewards.load(f"{first}@4", None, "log_odds")


def test_a_base_model_is_a_reference(tiny, first):
    base = next((first.parents[1] / "bases").iterdir())
    setup = prepare(tiny(f"reference.path={base}"))
    arch = setup.architecture
    expected = load_fitted(base, arch.shapes, arch.shardings)
    assert equal(first_reference(setup, arch.init(0)), expected)
    low = prepare(tiny(f"reference.path={base}", *LORA, *LOW))
    assert equal(first_reference(low, arch.init(0)), cast(expected, "bfloat16"))


def test_a_reference_of_another_shape_is_refused(tiny, first):
    setup = prepare(tiny(f"reference.path={first}", "model.d_model=32"))
    with pytest.raises(UserError, match=r"reference.path: .* is another model: its d_model is 16, the policy's 32"):
        first_reference(setup, setup.architecture.shapes)


@pytest.mark.parametrize("name", ["revision", "base"])
def test_a_run_has_neither_revision_nor_base(tiny, first, name):
    setup = prepare(tiny(f"reference.path={first}", f"reference.{name}=x"))
    with pytest.raises(UserError, match=rf"reference.{name}: got 'x', but .* is a run, which has none; expected null"):
        first_reference(setup, setup.architecture.shapes)


def test_a_reference_with_another_tokenizer_is_refused(tiny, first):
    setup = prepare(tiny(f"reference.path={first}", "tokenizer=bpe", "tokenizer.vocab_size=300", "reward=[length]"))
    with pytest.raises(UserError, match=r"reference.path: the model in .* has another tokenizer"):
        first_reference(setup, setup.architecture.shapes)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([*LORA, *LOW], r"reference.dtype: got bfloat16 with adapter=lora"),
        ([*LORA, *MOVING, "reference.path=x"], r"reference.refresh: got every with adapter=lora and a reference.path"),
        ([*AVERAGE, "reference.memory=host"], r"reference.memory: got host .*reference.refresh=average\), expected device"),
        ([*LORA, "reference.memory=host"], r"reference.memory: got host .*adapter=lora"),
        ([*AVERAGE, *LOW], r"reference.dtype: got bfloat16 with reference/refresh=average"),
        ([*MOVING, "run.oracle_every=2"], r"run.oracle_every: the optimum is that of a fixed reference"),
        (
            ["reference.revision=v1"],
            r"reference.revision: got 'v1' without a reference.path, to which it belongs; expected null",
        ),
        (["reference.base=x"], r"reference.base: got 'x' without a reference.path"),
        (["model.param_dtype=bfloat16"], r"model.param_dtype: got bfloat16, expected float32"),
    ],
)
def test_what_does_not_go_together_is_said(tiny, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny(*overrides)

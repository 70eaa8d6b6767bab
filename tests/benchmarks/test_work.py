"""Counts against the products in a traced program, against a walk over every token, and against figures known before."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

from experiments.benchmarks.work import Pass, Sizes, Work, forward_flops, passes, step_work
from kljax.command_line import compose
from kljax.config import Config
from kljax.models.decoder import Decoder, causal_mask, positions_of

ROWS, LENGTH, VOCAB = 3, 5, 11
WHOLE = Pass(ROWS * LENGTH, ROWS * LENGTH, ROWS * LENGTH**2)  # as the decoder computes it: masked pairs, too
SIZES = Sizes(prompts=2, samples=3, prompt_length=4, new_tokens=5)


def products(jaxpr):
    """Floating-point operations of a program's matrix products, [with parameters, in attention], in loops as often as they run.

    Attention's are those that have a batch dimension.
    """
    total = np.zeros(2, int)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            total[int(len(batch) > 0)] += 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
        for program in programs(list(equation.params.values())):
            total += products(program) * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def programs(value):
    if isinstance(value, list | tuple):
        return [program for part in value for program in programs(part)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    sizes = ["layers=2", "d_model=16", "d_mlp=24", "heads=4", "head_dim=6", "context=64", "tied_head=false"]
    kv_heads = 4 if request.param == "gpt2" else 2
    overrides = [f"model={request.param}", *(f"model.{size}" for size in sizes), f"model.kv_heads={kv_heads}"]
    return compose(overrides, Config).model


@pytest.fixture
def forward(model):
    """(function of parameters, the parameters): the sum of all logits."""
    graphdef, params = nnx.split(Decoder(model, VOCAB, rngs=nnx.Rngs(0)))

    def total(params):
        decoder, mask = nnx.merge(graphdef, params), jnp.ones((ROWS, LENGTH), bool)
        hidden, _ = decoder(jnp.zeros((ROWS, LENGTH), jnp.int32), positions_of(mask), causal_mask(mask))
        return decoder.logits(hidden).sum()

    return total, nnx.to_pure_dict(params)


def split(model, passed):
    """What a forward pass is counted to need: with parameters, in attention."""
    without_attention = forward_flops(model, VOCAB, replace(passed, pairs=0))
    return [without_attention, forward_flops(model, VOCAB, passed) - without_attention]


def test_forward_counts_the_products_of_the_program(model, forward):
    total, params = forward
    np.testing.assert_array_equal(products(jax.make_jaxpr(total)(params).jaxpr), split(model, WHOLE))


def test_the_backward_pass_is_two_products_for_one(model, forward):
    total, params = forward
    matrices, attention = products(jax.make_jaxpr(jax.grad(total))(params).jaxpr)
    expected = split(model, WHOLE)
    assert matrices == 3 * expected[0]
    assert attention >= 3 * expected[1]  # what it computes a second time, for memory's sake, is not counted
    counted = np.sum([split(model, part) for part in passes(SIZES)], axis=0)
    assert step_work(model, VOCAB, SIZES)["update"].flops == 2 * counted.sum()


def test_through_frozen_matrices_it_is_one_product_for_one(model, forward):
    total, params = forward
    embed = params.pop("embed")
    jaxpr = jax.make_jaxpr(jax.value_and_grad(lambda embed: total(params | {"embed": embed})))(embed).jaxpr
    # The gradients of the frozen ones are written down, and nobody asks for them: no compiler keeps them.
    matrices, _ = products(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])
    assert matrices == 2 * split(model, WHOLE)[0]
    counted = np.sum([split(model, part) for part in passes(SIZES)], axis=0)
    assert step_work(model, VOCAB, SIZES, lora=True)["update"].flops == counted @ [1, 2]


def test_shared_prompts_are_counted_as_a_walk_over_every_token_does():
    before_first = {("prompt", n, i): i + 1 for n in range(2) for i in range(4)}  # keys that the token looks at, itself one
    sampled = {("new", n, g, j): 4 + j + 1 for n in range(2) for g in range(3) for j in range(4)}  # the last leads nowhere
    prompts, completions = passes(SIZES)
    assert prompts == Pass(len(before_first), 2, sum(before_first.values()))
    assert completions == Pass(len(sampled), len(sampled), sum(sampled.values()))


def test_repeated_prompts_are_whole_sequences_for_every_row():
    prompts, completions = passes(SIZES, repeated=True)
    assert prompts.tokens + completions.tokens == 6 * 9
    assert prompts.states + completions.states == 6 * 5
    assert prompts.pairs + completions.pairs == 6 * 9 * 10 // 2


@pytest.mark.parametrize(("size", "vocab", "prompt", "known"), [("s", 4096, 16, 225e9), ("m", 8192, 32, 860e9)])
def test_with_repeated_prompts_it_is_what_was_known_before(size, vocab, prompt, known):
    config = compose([f"experiment=benchmark_{size}"], Config)
    sizes = Sizes(config.rollout.prompts, config.rollout.samples, prompt, config.rollout.max_new_tokens)
    repeated, shared = (
        sum(part.flops for part in step_work(config.model, vocab, sizes, repeated=repeated).values())
        for repeated in (True, False)
    )
    assert repeated == pytest.approx(known, rel=0.02)  # which leaves out attention
    assert shared < 0.85 * repeated


def test_sampling_reads_every_matrix_for_every_token_and_the_cache_as_far_as_it_is_full(model):
    weights = step_work(model, VOCAB, SIZES)["prefill"].bytes
    slot = 2 * model.kv_heads * model.head_dim * model.layers * 4
    cache = sum(2 * 4 + 6 * done for done in range(1, 5)) * slot
    assert step_work(model, VOCAB, SIZES)["decode"].bytes == 4 * weights + cache
    assert step_work(model, VOCAB, SIZES, cache_dtype="bfloat16")["decode"].bytes == 4 * weights + cache // 2


def test_the_slower_of_operations_and_transfers_counts():
    work = Work(100, 10) + Work(100, 10)
    assert work.seconds(flops_per_second=10.0, bytes_per_second=10.0) == 20
    assert work.seconds(flops_per_second=1000.0, bytes_per_second=1.0) == 20

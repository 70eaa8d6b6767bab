"""Counts in programs written by hand, in the forms of several backends, and in compiled ones whose collectives are known."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks.collectives import Collectives, Traffic, bytes_of, count_collectives, total
from kljax.config import MeshConfig
from kljax.devices import mesh as meshes

ADD = """\
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def program(body, more=""):
    """HLO whose entry is `body`, the computations of `more` before it."""
    return f"HloModule test, is_scheduled=true\n\n{ADD}\n{more}\nENTRY %main (x: f32[4]) -> f32[4] {{\n{body}\n}}\n"


def counted(body, more="", sampling_steps=()):
    return count_collectives(program(body, more), sampling_steps)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[8]", 16),
        ("pred[]", 1),
        ("s4[3]", 2),
        ("f8e4m3fn[5]", 5),
        ("c64[2]", 16),
        ("f32[<=10,2]", 80),
        ("bf16[16,128]{1,0:T(8,128)(2,1)S(1)}", 4096),
        ("(f32[2,3]{1,0}, pred[], /*index=5*/u32[4]{0})", 41),
        ("(s32[], token[])", 4),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert bytes_of(shape) == size


def test_combined_collectives_are_summed_and_other_instructions_are_not():
    found = counted("""\
  %x = f32[4]{0} parameter(0)
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[2]{0}, /*index=2*/f32[]) all-reduce(%x, %x, %x), to_apply=%add, metadata={op_name="f"}
  %all-gather-like = f32[1000]{0} broadcast(%x), metadata={op_name="calls=%all-reduce.1 all-reduce(x)"}
  ROOT %gathered = f32[32]{0} all-gather(%x), channel_id=1, dimensions={0}""")
    assert found == Collectives({}, {"all-reduce": Traffic(1, 128 + 4 + 4), "all-gather": Traffic(1, 128)})


@pytest.mark.parametrize(
    ("start", "kind", "size"),
    [
        ("(f32[4]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}", "all-gather", 128),
        ("((f32[4]{0}, s8[2]{0}), (f32[32]{0}, s8[16]{0})) all-gather-start(%x, %y), dimensions={0}", "all-gather", 144),
        ("(f32[4]{0}, bf16[2,2]{1,0}) all-reduce-start(%x, %y), to_apply=%add", "all-reduce", 24),
        ("(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x)", "collective-permute", 16),
        ("((f32[4]{0}), f32[2]{0}, u32[]) reduce-scatter-start(%x), to_apply=%add", "reduce-scatter", 8),
    ],
)
def test_what_is_asynchronous_counts_once(start, kind, size):
    done = start.split(") ")[1].split("(")[0].replace("-start", "-done")
    found = counted(f"  %x = f32[4]{{0}} parameter(0)\n  %s = {start}\n  ROOT %d = f32[4]{{0}} {done}(%s)")
    assert found == Collectives({}, {kind: Traffic(1, size)})


def test_a_wrapped_collective_counts_where_it_starts():
    wrapped = """\
%wrapped (p: f32[4]) -> f32[2] {
  %p = f32[4]{0} parameter(0)
  ROOT %rs = f32[2]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}
"""
    found = counted(
        """\
  %x = f32[4]{0} parameter(0)
  %s = ((f32[4]{0}), f32[2]{0}, u32[]) async-start(%x), calls=%wrapped
  %u = ((f32[4]{0}), f32[2]{0}, u32[]) async-update(%s), calls=%wrapped
  ROOT %d = f32[2]{0} async-done(%u), calls=%wrapped""",
        wrapped,
    )
    assert found == Collectives({}, {"reduce-scatter": Traffic(1, 8)})


LOOPS = """\
%inner_body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %r = f32[4]{0} all-to-all(%p), dimensions={0}
}
%inner_condition (p: (s32[], f32[4])) -> pred[] {
  ROOT %p = pred[] parameter(0)
}
%outer_body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %g = f32[8]{0} all-gather(%p), dimensions={0}
  ROOT %w = (s32[], f32[4]{0}) while(%p), condition=%inner_condition, body=%inner_body, backend_config=INNER
}
%outer_condition (p: (s32[], f32[4])) -> pred[] {
  ROOT %r = pred[] all-reduce(%p), to_apply=%add
}
"""
INNER = '{"known_induction_variable":{"tuple_index":"0"},"known_trip_count":{"n":"5"}}'


@pytest.mark.parametrize("written", [INNER, '"' + INNER.replace('"', '\\"') + '"'], ids=["json", "quoted"])
def test_a_loop_counts_as_often_as_it_runs_and_its_condition_once_more(written):
    loop = "  ROOT %w = (s32[], f32[4]{0}) while(%x), condition=%outer_condition, body=%outer_body"
    loops = LOOPS.replace("INNER", written)
    sampled = counted(loop, loops, sampling_steps=[7])
    assert sampled.elsewhere == {}
    assert sampled.sampling == {
        "all-gather": Traffic(7, 7 * 32),
        "all-to-all": Traffic(7 * 5, 7 * 5 * 16),
        "all-reduce": Traffic(8, 8),
    }
    known = counted(f"{loop}, backend_config={written.replace('5', '3')}", loops, sampling_steps=[7])
    assert known.sampling == {}
    assert known.elsewhere == {
        "all-gather": Traffic(3, 3 * 32),
        "all-to-all": Traffic(3 * 5, 3 * 5 * 16),
        "all-reduce": Traffic(4, 4),
    }


def test_loops_of_unknown_length_take_their_numbers_in_turn():
    loops = LOOPS.replace("INNER", INNER) + LOOPS.replace("INNER", INNER).replace("outer", "other").replace("inner", "within")
    body = """\
  %v = (s32[], f32[4]{0}) while(%x), condition=%outer_condition, body=%outer_body
  ROOT %w = (s32[], f32[4]{0}) while(%v), condition=%other_condition, body=%other_body"""
    found = counted(body, loops, sampling_steps=[3, 2])
    assert found.sampling["all-gather"].number == 3 + 2
    assert found.sampling["all-reduce"].number == (3 + 1) + (2 + 1)
    with pytest.raises(ValueError, match=r"^sampling_steps: .* the program has more of them"):
        counted(body, loops, sampling_steps=[3])


def test_calls_are_followed_and_of_branches_the_one_that_says_most():
    called = """\
%small (p: f32[4]) -> f32[4] {
  ROOT %a = f32[4]{0} all-reduce(%p), to_apply=%add
}
%large (p: f32[4]) -> f32[4] {
  ROOT %f = f32[4]{0} fusion(%p), kind=kCustom, calls=%fused
}
%fused (p: f32[4]) -> f32[4] {
  %a = f32[4]{0} all-reduce(%p), to_apply=%add
  ROOT %b = f32[16]{0} all-gather(%a), dimensions={0}
}
"""
    found = counted(
        """\
  %once = f32[4]{0} call(%x), to_apply=%small
  %twice = f32[4]{0} call(%x), to_apply=%small
  ROOT %c = f32[4]{0} conditional(%i, %x, %x), branch_computations={%small, %large}""",
        called,
    )
    assert found.elsewhere == {"all-reduce": Traffic(3, 48), "all-gather": Traffic(1, 64)}
    assert total(found.elsewhere) == Traffic(4, 112)


N, D = 8, 16  # of the products below: x [N, D] @ w [D, D]


@pytest.fixture(scope="module")
def sharded():
    """sharded(function, …): the collectives of function(x, w), D divided over eight devices in x's columns and w's rows."""
    mesh = meshes.build(MeshConfig(data=1, fsdp=8, tensor=1))
    columns, rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "fsdp"), ("fsdp", None), ()))
    x, w = jax.device_put(jnp.ones((N, D)), columns), jax.device_put(jnp.ones((D, D)), rows)

    def collectives(function, sampling_steps=()):
        compiled = jax.jit(partial(function, columns=columns), out_shardings=whole).lower(x, w).compile()
        return count_collectives(compiled.as_text(), sampling_steps)

    return collectives


def product(x, w, columns):
    return x @ w


def five(x, w, columns):
    def turn(x, _):
        return jax.lax.with_sharding_constraint(x @ w, columns), None

    return jax.lax.scan(turn, x, length=5)[0]


def until_large(x, w, columns):
    return jax.lax.while_loop(lambda x: x[0, 0] < 100, lambda x: jax.lax.with_sharding_constraint(x @ w, columns), x)


def test_a_product_over_a_divided_axis_is_one_all_reduce_of_its_result(sharded):
    assert sharded(product) == Collectives({}, {"all-reduce": Traffic(1, 4 * N * D)})


def test_in_a_scan_of_five_there_are_five(sharded):
    """And in the end the result is gathered, since it is asked for whole."""
    found = sharded(five)
    assert found.sampling == {}
    assert found.elsewhere["all-reduce"] == Traffic(5, 5 * 4 * N * D)
    assert found.elsewhere["all-gather"] == Traffic(1, 4 * N * D)


def test_in_a_loop_that_ends_when_it_ends_as_many_as_the_caller_says(sharded):
    found = sharded(until_large, sampling_steps=[6])
    products = 6 * Traffic(1, 4 * N * D).bytes
    in_condition = 7 * 4  # whether the one entry, which only one device has, is large by now
    assert found.sampling["all-reduce"].bytes == products + in_condition
    assert found.elsewhere["all-gather"] == Traffic(1, 4 * N * D)

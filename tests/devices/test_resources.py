"""What a config leaves open is chosen from sizes that are those of the arrays, and from memory."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from kljax.command_line import compose
from kljax.config import Config
from kljax.devices import resources
from kljax.devices.resources import activation_bytes, chosen_devices, divide_cpu, keeps_activations, layers_note, unrolls
from kljax.errors import UserError
from kljax.models.sampling import sample_with_activations
from kljax.runs.setup import prepare

DEVICES = 1


@pytest.mark.parametrize("family", [["model=gpt2"], ["model=llama", "model.kv_heads=1"]], ids=["gpt2", "llama"])
def test_bytes_are_those_of_what_sampling_keeps(tiny, family):
    """But for the last token, which sampling never reads."""
    config = tiny(*family, "data.prompt.min_tokens=4", "rollout.max_new_tokens=20", "model.context=32")
    setup = prepare(config)
    arch, prompts = setup.architecture, setup.prompts().select(np.arange(config.rollout.prompts))

    def known(params):
        return sample_with_activations(nnx.merge(arch.graphdef, params), prompts, jax.random.key(0), setup.sampler(2))[1]

    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(known, arch.shapes)))
    assert 0.9 * activation_bytes(config, setup.decoder) < kept <= activation_bytes(config, setup.decoder)


@pytest.mark.parametrize(
    ("overrides", "memory", "kept"),
    [
        ([], 2**30, True),
        ([], 2**10, False),
        (["model.remat=mlp"], 2**30, False),
        (["rollout.microbatches=2"], 2**30, False),
        (["rollout.cache_dtype=bfloat16"], 2**30, False),
        (["rollout.keep_activations=true"], 2**10, True),
        (["rollout.keep_activations=false"], 2**30, False),
    ],
)
def test_activations_are_kept_where_the_gradient_holds_them_anyway_and_they_fit(tiny, monkeypatch, overrides, memory, kept):
    config = tiny(*overrides)
    monkeypatch.setattr(resources, "device_memory", lambda: memory)
    assert keeps_activations(config, config.model, DEVICES) == kept


@pytest.mark.parametrize(
    ("asked", "layers", "steps", "backend", "one_by_one", "said"),
    [
        (None, 6, 1, "cpu", True, None),
        (None, 7, 69, "cpu", False, "The 7 layers are compiled as a loop: 69 steps, fewer than 70."),
        (
            None,
            7,
            70,
            "cpu",
            True,
            "The 7 layers are compiled one by one, which takes longer and makes steps faster",
        ),
        (None, 7, 7000, "gpu", False, None),
        (True, 30, 1, "cpu", True, None),
        (False, 2, 1000, "cpu", False, None),
    ],
)
def test_layers_are_compiled_one_by_one_where_that_is_sooner_done(monkeypatch, asked, layers, steps, backend, one_by_one, said):
    monkeypatch.setattr(resources.jax, "default_backend", lambda: backend)
    assert unrolls(asked, layers, steps) == one_by_one
    note = layers_note(asked, layers, steps)
    assert note is None if said is None else note.startswith(said)


def test_a_device_has_memory():
    assert resources.device_memory() > 2**20


@pytest.mark.parametrize(
    ("overrides", "devices"),
    [
        ([], 1),
        (["experiment=benchmark_xs"], 1),
        (["mesh.data=1"], 1),
        (["mesh.data=3"], 3),
        (["experiment=benchmark_m", "mesh.data=2"], 2),
        (["mesh.data=2", "mesh.tensor=2"], 1),
        (["mesh.data=2", "mesh.fsdp=-1"], 1),
    ],
)
def test_a_cpu_is_one_device_unless_the_mesh_names_more_and_has_the_cores(monkeypatch, overrides, devices):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert chosen_devices(compose(overrides, Config)) == devices
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert chosen_devices(compose(overrides, Config)) == 1


WISHES = {
    "its own choice": ([], "", chosen_devices(compose([], Config))),
    "the config's": (["run.cpu_devices=3"], "", 3),
    "the environment's": ([], "--xla_force_host_platform_device_count=4", 4),
}

DIVIDED = """
import sys
import jax
import numpy as np
from kljax.command_line import compose
from kljax.config import Config
from kljax.devices.resources import divide_cpu
divide_cpu(compose(sys.argv[1:], Config))
print(jax.device_count())
"""


@pytest.mark.parametrize("wish", WISHES)
def test_a_cpu_is_as_many_devices_as_is_wished(wish):
    overrides, flags, devices = WISHES[wish]
    command, environment = [sys.executable, "-c", DIVIDED, *overrides], os.environ | {"XLA_FLAGS": flags}
    run = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert run.stdout.decode().strip() == str(devices)


def test_a_cpu_in_use_stays_as_it_is(tiny):
    assert jax.device_count() == 8
    divide_cpu(tiny("mesh.data=2"))
    divide_cpu(tiny("run.cpu_devices=8"))
    assert jax.device_count() == 8
    with pytest.raises(UserError, match=r"^run.cpu_devices: got 2, but this process has begun to use its CPU as 8"):
        divide_cpu(tiny("run.cpu_devices=2"))


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        (jax.numpy_dtype_promotion, "JAX_NUMPY_DTYPE_PROMOTION", "strict"),
        (jax.numpy_rank_promotion, "JAX_NUMPY_RANK_PROMOTION", "raise"),
    ],
)
def test_settings_under_which_libraries_fail_are_refused(setting, name, value):
    resources.check_jax()
    with setting(value), pytest.raises(UserError, match=f"^{name}: got {value}, expected "):
        resources.check_jax()


def test_a_platform_without_devices_is_one_sentence(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda':\n no such library (you may need to uninstall it)")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS: JAX finds no device for .*: no such library\); expected"):
        resources.check_jax()

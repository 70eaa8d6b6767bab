"""Series of the measurements of experiments/benchmarks/growth.py, as overrides. No JAX: a command line names them."""

Overrides = tuple[str, ...]

BASE: Overrides = (
    "experiment=benchmark_s",
    "model.context=160",
    "rollout.prompts=4",
    "rollout.max_new_tokens=32",
)
"""S with a quarter of its prompts and room for the longest completions."""


def _prompt(length: int) -> Overrides:
    """Prompts of `length` tokens, the beginning token included, from texts that are as long."""
    within = f"data.prompt.min_tokens={length - 1}", f"data.prompt.max_tokens={length - 1}"
    return (f"data.source.length={length}", *within)


SERIES: dict[str, dict[str, Overrides]] = {
    "batch": {"prompts × 1": (), "× 2": ("rollout.prompts=8",), "× 4": ("rollout.prompts=16",)},
    "samples": {"samples × 1": (), "× 2": ("rollout.samples=8",), "× 4": ("rollout.samples=16",)},
    "tokens": {"new tokens × 1": (), "× 2": ("rollout.max_new_tokens=64",), "× 4": ("rollout.max_new_tokens=128",)},
    "prompt": {"prompt length × 1": (), "× 2": _prompt(32), "× 4": _prompt(64)},
    "model": {
        "as it is": (),
        "width × 2": ("model.d_model=512", "model.d_mlp=1360", "model.heads=16", "model.kv_heads=16"),
        "layers × 2": ("model.layers=12",),
        # With three special tokens four times as many, and enough text that every word is in the part that is split off.
        "vocabulary × 4": ("data.source.words=16381", "data.source.sentences=32768"),
    },
}
"""Changes of the base, which comes first."""

RUNS = (1, 4, 16)
SMALL: Overrides = ("experiment=benchmark_xs", "rollout.prompts=8")
"""A step so small that it does not fill two cores: where runs side by side could pay."""

DEVICES = 8
DISTRIBUTED: Overrides = ("experiment=benchmark_s",)
MESHES = {
    "1 device": (1, 1, 1),
    "data=8": (8, 1, 1),
    "fsdp=8": (1, 8, 1),
    "data=4, tensor=2": (4, 1, 2),
    "data=2, fsdp=2, tensor=2": (2, 2, 2),
}
"""data, fsdp, tensor."""

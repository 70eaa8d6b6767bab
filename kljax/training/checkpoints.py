"""Orbax checkpoints: the whole state every few steps, asynchronously, and the reference once, known by its hash."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from kljax.errors import UserError
from kljax.models.layers import is_unrolled, like, stack
from kljax.reading import check_tree
from kljax.training import damaged
from kljax.training.run_config import read_config
from kljax.training.state import not_finite, params_hash
from kljax.types import Params

REFERENCE, BASE, START = "reference", "base", "start"
"""Folders of parameters that a run does not change. START: the model that the policy started from, where neither has it."""


ONE_BY_ONE = re.compile(r"\blayers\.\d+\.")
"""In the name of an array of older versions: the number of its layer."""


ANEW = "begin anew (name=…), or from its policy, as that version's experiments/export.py writes it (model.path=DIR)"


class Checkpoints:
    """The checkpoints of one run directory. A resource: close it."""

    def __init__(self, run: Path):
        self._folder = (run / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=True, save_root_metadata=False)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def steps(self) -> list[int]:
        """The steps that can be restored, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, about: Mapping[str, Any] | None = None) -> None:
        """Write `state` in the background, its layers stacked. It is copied first: the next step may donate its buffers.

        `about` is what else is to be known of it: the `reference` (its hash) that it was trained against, and the `beta` of the
        step that made it. A fit has neither.
        """
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, stack(state))),
            about=ocp.args.JsonSave({"reference": None, **(about or {})}),
        )
        self._manager.save(step, args=args)

    def restore(self, step: int, shapes: Any, shardings: Any, reference_hash: str | None = None) -> Any:
        """The state of `step`, in the form of `shapes`, by `shardings`; refused if it was trained against another reference."""
        with self._reading(step, reference_hash) as folder:
            _check_shapes(folder, stack(shapes), self._folder.parent)
            target = ocp.args.Composite(state=ocp.args.StandardRestore(_laid_out(stack(shapes), stack(shardings))))
            state = self._manager.restore(step, args=target)["state"]
        return jax.jit(partial(like, shapes), out_shardings=shardings)(state) if is_unrolled(shapes) else state

    def restore_parts(
        self, step: int, shapes: dict[str, Any], shardings: dict[str, Any], reference_hash: str | None
    ) -> dict[str, Any]:
        """Those fields of the state of `step` that have shapes here, stacked; nothing is read of the others."""
        with self._reading(step, reference_hash) as folder, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            _check_shapes(folder, shapes, self._folder.parent, list(shapes))
            target = _laid_out(shapes, shardings)
            how = ocp.checkpoint_utils.construct_restore_args(target)
            return checkpointer.restore(folder, ocp.args.PyTreeRestore(target, how, partial_restore=True))

    @contextmanager
    def _reading(self, step: int, reference_hash: str | None) -> Iterator[Path]:
        """The folder of a state, while it is read; refused if it was trained against another reference."""
        folder = self._folder / str(step)
        without = _without(folder, [other for other in self.steps() if other < step])
        with damaged.reading(folder, without):
            check_tree(folder)
            about = self.about(step)
        if reference_hash is None and about["reference"] is not None:
            raise UserError(
                f"{self._folder / str(step)} was written by an older version of kljax, which kept fits in another form; "
                f"remove {self._folder.parent} to fit anew."
            )
        if about["reference"] != reference_hash:
            raise UserError(
                f"{self._folder / str(step)} was trained against the reference {str(about['reference'])[:12]}…, this one is "
                f"{str(reference_hash)[:12]}…; KL to it would mean something else. "
                "Restore the reference or start another run (name=…)."
            )
        with damaged.reading(folder, without), _quiet():
            yield folder / "state"

    def about(self, step: int) -> dict[str, Any]:
        """What was said of the state when it was saved."""
        about = dict(self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"])
        reference, beta = about.get("reference", 0), about.get("beta")
        if not isinstance(reference, str | None) or not isinstance(beta, int | float | None):
            raise ValueError("it does not say which reference it was trained against, or with which beta")
        return about

    def delete(self, step: int) -> None:
        """Remove the checkpoint of `step`."""
        self._manager.delete(step)

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then let go of the threads."""
        self._manager.close()


def _without(folder: Path, earlier: list[int]) -> str:
    """What can be done without a checkpoint."""
    if not earlier:
        return "restore it from a copy, or begin anew (name=…)"
    return f"restore it from a copy, or delete it: the run goes on from step {earlier[-1]}, which other scripts take, too"


def save_params(run: Path, params: Params, name: str = REFERENCE) -> None:
    """Write parameters that a run does not change, once."""
    folder = _folder(run, name)
    if not folder.exists():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, stack(params))


def load_params(run: Path, shapes: Params, shardings: Params, name: str = REFERENCE) -> Params:
    """What `save_params` wrote, laid out by `shardings`, in the types that it has on disk. Refused where it is not finite."""
    folder = _folder(run, name)
    fitted = run / "result.json"  # the folder of a fit, whose last checkpoint has the parameters, too
    if not folder.exists() and fitted.exists():
        raise UserError(
            f"{folder} is missing, the model of a finished fit; delete {fitted}, and the same command writes both again."
        )
    if not folder.exists():
        raise UserError(
            f"{run} holds no {name} model (no {folder.relative_to(run.resolve())}); was it interrupted before its first step?"
        )
    both = f"{folder} and {fitted}" if fitted.exists() else f"{folder}"
    way_out = f"delete {both}: the command that made it makes it again"
    with damaged.reading(folder, way_out), ocp.StandardCheckpointer() as checkpointer:
        there = _check_shapes(folder, shapes, run)
        shapes = jax.tree.map(lambda x, y: jax.ShapeDtypeStruct(x.shape, y.dtype), shapes, there)
        params = checkpointer.restore(folder, _laid_out(shapes, shardings))
    check_finite(folder, params, f"Remove {run} and make it anew, with a lower learning rate if the fit had diverged")
    return params


def check_finite(folder: Path, tree: Any, way_out: str) -> None:
    """Refuse what was read from `folder` where it holds a number that is not finite, with the array's name."""
    if (name := not_finite(tree)) is not None:
        raise UserError(
            f"{folder} holds a number that is not finite, in {name}: it was saved after its fit or run had diverged, which "
            f"older versions of kljax did, or the file was changed. {way_out}."
        )


def check_version(run: Path) -> None:
    """Refuse a run of an older version before anything compiles. What cannot be read is left to the restore, which says so."""
    for folder in [_folder(run, REFERENCE), *_states(run)[-1:]]:
        try:
            arrays = _shapes_by_name(_arrays_in(folder))
        except Exception:  # missing or damaged: libraries have nothing in common in what they raise
            continue
        _check_stacked(folder, arrays, run)


def save_frozen(run: Path, base: Params, reference: Params) -> str:
    """Write a run's base model and first reference, or the one that is both, and return their hash."""
    save_params(run, reference)
    if base is not reference:
        save_params(run, base, BASE)
    return frozen_hash(base, reference)


def load_frozen(run: Path, shapes: Params, shardings: Params) -> tuple[Params, Params, str]:
    """Base model and first reference of a run, the same where it has no other base, and their hash."""
    reference = load_params(run, shapes, shardings)
    base = load_params(run, shapes, shardings, BASE) if _folder(run, BASE).exists() else reference
    return base, reference, frozen_hash(base, reference)


def load_start(run: Path, shapes: Params, shardings: Params) -> Params:
    """The model that the policy started from, where it was saved by itself; None where it was not."""
    return load_params(run, shapes, shardings, START) if _folder(run, START).exists() else None


def frozen_hash(base: Params, reference: Params) -> str:
    """What a checkpoint knows the frozen parameters by that it was trained with."""
    return params_hash(stack(reference)) if base is reference else params_hash(stack({BASE: base, REFERENCE: reference}))


def _folder(run: Path, name: str) -> Path:
    return (run / "checkpoints" / name).resolve()


def _states(run: Path) -> list[Path]:
    """The folders of the saved states, in the order of their steps."""
    states = [folder for folder in run.resolve().glob("checkpoints/*/state") if folder.parent.name.isdigit()]
    return sorted(states, key=lambda folder: int(folder.parent.name))


def _laid_out(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _check_shapes(folder: Path, shapes: Any, run: Path, parts: list[str] | None = None) -> Any:
    """Refuse what was saved from another model, by name, before any array is read; what the folder says of its arrays.

    `run`: whose folder it is. `parts`: of what is there, these alone.
    """
    tree = _arrays_in(folder)
    tree = tree if parts is None else {name: tree[name] for name in parts if name in tree}
    here, there = _shapes_by_name(shapes), _shapes_by_name(tree)
    _check_stacked(folder, there, run)
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            found, expected = (f"the shape {s[name]}" if name in s else "no such array" for s in (there, here))
            raise UserError(
                f"{folder} holds another model than the config describes: {name} has {found} there, {expected} here."
            )
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: hasattr(x, "dtype"))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _arrays_in(folder: Path) -> Any:
    """A tree of what a folder says of its arrays."""
    check_tree(folder)
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        about = checkpointer.metadata(folder).item_metadata
        if about is None:
            raise ValueError("it does not say which arrays it has")
        return about.tree  # pyright: ignore


def _check_stacked(folder: Path, names: Iterable[str], run: Path) -> None:
    """Refuse what an older version has saved: a fit is made again, and a run goes on by that version alone."""
    if any(ONE_BY_ONE.search(name) for name in names):
        is_run = "rollout" in read_config(run)
        way_on = ANEW if is_run else f"remove {run}: the command that made it makes it again"
        raise UserError(f"{folder} was written by an older version of kljax, which saved each layer by itself; {way_on}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warning that a folder which its manager wrote lacks the metadata of a single checkpoint."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    def shape(leaf: Any) -> tuple[int, ...]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # on disk a key is its raw data
            return jax.eval_shape(jax.random.key_data, leaf).shape
        return tuple(leaf.shape)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape(leaf) for path, leaf in leaves}

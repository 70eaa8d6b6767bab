"""Orbax checkpoints: the whole state every few steps, asynchronously, and the reference once, known by its hash."""

import logging
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from kljax.devices.state import not_finite, params_hash
from kljax.disk import writing_to
from kljax.errors import UserError
from kljax.models.layers import is_unrolled, like, stack
from kljax.progress import say
from kljax.reading import check_tree
from kljax.runs import damaged, digests, older
from kljax.runs.background import print_no_tracebacks
from kljax.runs.config_file import CONFIG, format_of, id_of
from kljax.types import Params

REFERENCE, BASE, START, FITTED = "reference", "base", "start", "fitted"
"""Folders of parameters that a run does not change. START: the model that the policy started from, where neither has it.

Of a fit REFERENCE is the model that it started from, and FITTED the best that it came to.
"""


SET_ASIDE = "set_aside"
TRAIN = "train"
"""The field of a fit's state that has what is trained; the others are what early stopping remembers."""
LOGS = ("metrics.jsonl", "samples.jsonl")
POLL = 0.01  # s


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the last ones, and for analysis those of every so many steps; 0: none."""

    last: int
    every: int
    best: bool = False  # and the best one, which the run says (`Checkpoints.best`)


ALL = None
"""Of `keep`: every checkpoint stays."""


def disk_note(run: Path, keep: Keep, steps: int, *, state: Any, frozen: Any) -> str:
    """Say what a run of so many steps will take on its disk at most, and what is free. `state`, `frozen`: shapes or arrays."""
    of_state, of_frozen = _size(state), _size(frozen)
    beside = steps // keep.every if keep.every else 0
    beside_best = 2 if keep.best else 0  # the first state, which is the best at first, stays as one of every so many
    most = (keep.last + 1 + beside + beside_best) * of_state + of_frozen  # one more while it is written
    parts = [f"{keep.last} checkpoints of {_spelled(of_state)}"]
    parts += [f"{beside} more, one of every {keep.every:,} steps"] if beside else []
    parts += ["the best one"] if keep.best else []
    free = shutil.disk_usage(next(folder for folder in (run.resolve(), *run.resolve().parents) if folder.exists())).free
    enough = "" if most < free else ", which is not enough (run.keep, run.save_every)"
    return (
        f"On disk: {', '.join(parts)}, and {_spelled(of_frozen)} of models that stay as they are: at most {_spelled(most)}; "
        f"{_spelled(free)} are free{enough}."
    )


def _size(tree: Any) -> int:
    """Bytes of arrays or of their shapes."""
    types = ((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * (8 if jnp.issubdtype(t, jax.dtypes.prng_key) else t.itemsize) for shape, t in types)


def _spelled(size: int) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(size, 1), 1024)), len(units) - 1)
    return f"{size / 1024**power:.3g} {units[power]}"


class Checkpoints:
    """The checkpoints of one run directory. A resource: close it.

    <step>/ holds the state, what is said `about` it, and manifest.json: the digests of its files, and of the logs so far. That
    is written when Orbax has given the folder its name: a step without it is not finished.

    `best` is a step that stays, whatever `keep` says; None: there is none.
    """

    best: int | None = None

    def __init__(self, run: Path, keep: Keep | None = ALL):
        self._run = run
        self._folder = (run / "checkpoints").resolve()
        policy = None
        if keep is not None:
            policies = [preservation_policy.LatestN(keep.last)]
            policies += [preservation_policy.EveryNSteps(keep.every)] if keep.every else []
            policies += [_TheBest(self)] if keep.best else []
            policy = preservation_policy.AnyPreservationPolicy(policies)
        options = ocp.CheckpointManagerOptions(
            create=True, enable_async_checkpointing=True, save_root_metadata=False, preservation_policy=policy
        )
        print_no_tracebacks()
        with writing_to(self._folder):
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._sealed = not (run / CONFIG).exists() or format_of(run) > 1
        self._of = id_of(run) if self._sealed else None
        self._sealing: Future[None] | None = None
        self._failed = threading.Event()  # or done: no folder will come any more
        self._thread = ThreadPoolExecutor(max_workers=1)

    def steps(self) -> list[int]:
        """The steps that can be restored, in order."""
        return sorted(step for step in self._manager.all_steps() if self._is_finished(step))

    def _is_finished(self, step: int) -> bool:
        return not self._sealed or (self._folder / str(step) / digests.MANIFEST).exists()

    def save(self, step: int, state: Any, about: Mapping[str, Any] | None = None) -> None:
        """Write `state` in the background, its layers stacked. It is copied first: the next step may donate its buffers.

        `about` is what else is to be known of it: the `reference` (its hash) that it was trained against, and the `beta` of the
        step that made it. A fit has neither.
        """
        if step in self._manager.all_steps():
            return
        self.wait()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, stack(state))),
            about=ocp.args.JsonSave({"reference": None, **(about or {})}),
        )
        logs = {name: (self._run / name).stat().st_size for name in LOGS if (self._run / name).exists()}
        with self._writing():
            self._manager.save(step, args=args)
        self._failed = threading.Event()
        self._sealing = self._thread.submit(self._seal, step, logs)

    def _seal(self, step: int, logs: Mapping[str, int]) -> None:
        """When the folder has its name, write its manifest, and what the logs held when it was saved."""
        folder = self._folder / str(step)
        while not folder.exists():
            if self._failed.wait(POLL) and not folder.exists():
                return
        seen = {name: digests.of_beginning(self._run / name, size) for name, size in logs.items()}
        with writing_to(folder):
            digests.seal(folder, self._of, logs=seen)

    def newest_whole(self) -> tuple[int | None, list[str]]:
        """The newest step that is what was written, after those above it that are not were set aside; sentences on these.

        They are moved to checkpoints/set_aside/, where nothing looks, as the run will come to their steps again.
        """
        said = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = self._folder / str(step)
            try:
                digests.check_folder(folder, self._of)
                if said:
                    self._manager.reload()
                return step, said
            except digests.Damaged as damage:
                aside = _free(self._folder / SET_ASIDE / str(step))
                with writing_to(aside):
                    aside.parent.mkdir(exist_ok=True)
                    folder.rename(aside)
                said.append(f"{damage.reason}. It is set aside, in {aside}.")
        self._manager.reload()
        return None, said

    def logs(self, step: int) -> dict[str, digests.Digest]:
        """The digests of the run's logs as they were when the step was saved."""
        return digests.check_folder(self._folder / str(step), self._of).get("logs", {})

    def restore(self, step: int, shapes: Any, shardings: Any, reference_hash: str | None = None) -> Any:
        """The state of `step`, in the form of `shapes`, by `shardings`; refused if it was trained against another reference."""
        with self._reading(step, reference_hash) as folder:
            _check_shapes(folder, stack(shapes))
            target = ocp.args.Composite(state=ocp.args.StandardRestore(_laid_out(stack(shapes), stack(shardings))))
            state = self._manager.restore(step, args=target)["state"]
        return jax.jit(partial(like, shapes), out_shardings=shardings)(state) if is_unrolled(shapes) else state

    def restore_parts(
        self, step: int, shapes: dict[str, Any], shardings: dict[str, Any], reference_hash: str | None
    ) -> dict[str, Any]:
        """Those fields of the state of `step` that have shapes here, stacked; nothing is read of the others.

        Fields of fields are given as in {"train": {"params": …}}.
        """
        with self._reading(step, reference_hash) as folder, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            there, lying, whole = _in_form(folder, shapes, shardings)
            _check_shapes(folder, there, list(_parts_of(shapes)))
            target = _laid_out(there, lying)
            how = ocp.checkpoint_utils.construct_restore_args(target)
            return whole(checkpointer.restore(folder, ocp.args.PyTreeRestore(target, how, partial_restore=True)))

    @contextmanager
    def _reading(self, step: int, reference_hash: str | None) -> Iterator[Path]:
        """The folder of a state, while it is read; refused if it was trained against another reference."""
        folder = self._folder / str(step)
        without = _without(folder, [other for other in self.steps() if other < step])
        if self._sealed:
            digests.check_folder(folder, self._of, without)
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
        """Notes on the state from when it was saved."""
        about = dict(self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"])
        reference, beta = about.get("reference", 0), about.get("beta")
        if not isinstance(reference, str | None) or not isinstance(beta, int | float | None):
            raise ValueError("it does not say which reference it was trained against, or with which beta")
        return about

    def delete(self, step: int) -> None:
        """Remove the checkpoint of `step`."""
        with self._writing():
            self._manager.delete(step)

    def wait(self) -> None:
        """Until all that was saved is on disk, with its digests."""
        try:
            with self._writing():
                self._manager.wait_until_finished()
        finally:
            if self._sealing is not None:
                self._failed.set()  # or it has its name
                self._sealing, sealing = None, self._sealing
                sealing.result()

    def close(self) -> None:
        """Wait, then let go of the threads."""
        try:
            self.wait()
        finally:
            with self._writing():
                self._manager.close()
            self._thread.shutdown()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Refusals of the disk in words: one in the background comes up with the next save, or when it is waited for."""
        with writing_to(self._folder):
            yield


@dataclass(frozen=True)
class _TheBest(preservation_policy.PreservationPolicy):
    """Keeps the one that is the best when another one is saved."""

    of: Checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each of these stays."""
        return [one.step == self.of.best for one in checkpoints]


def _free(path: Path) -> Path:
    """The path, or one beside it that is not there yet."""
    names = chain([path.name], (f"{path.name}_{i}" for i in count(2)))
    return next(there for name in names if not (there := path.with_name(name)).exists())


def _without(folder: Path, earlier: list[int]) -> str:
    """A way out for who has lost a checkpoint."""
    if not earlier:
        return "restore it from a copy, or begin anew (name=…)"
    return f"restore it from a copy, or delete {folder}: the run goes on from step {earlier[-1]}, which other scripts take, too"


def save_params(run: Path, params: Params, name: str = REFERENCE) -> None:
    """Write parameters that a run does not change, once."""
    folder, of = _folder(run, name), id_of(run)
    if folder.exists():
        try:
            digests.check_folder(folder, of)
        except digests.Damaged as damage:  # or a process was killed while it wrote it
            if (folder / digests.MANIFEST).exists():
                say(f"{damage.reason}: it is written again.")
            shutil.rmtree(folder)
    if not folder.exists():
        print_no_tracebacks()
        with writing_to(folder), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, stack(params))
        digests.seal(folder, of)


def _parts_of(shapes: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of a state's fields of which shapes are given: two levels of a fit's, one of an RL run's."""
    for name, value in shapes.items():
        yield from (f"{name}.{inner}" for inner in value) if name == TRAIN else [name]


def load_fitted(run: Path, shapes: Params, shardings: Params) -> Params:
    """The model that a fit came to."""
    older_fit = not _folder(run, FITTED).exists() and (run / CONFIG).exists() and format_of(run) == 1
    return load_params(run, shapes, shardings, REFERENCE if older_fit else FITTED)


def load_params(run: Path, shapes: Params, shardings: Params, name: str = REFERENCE) -> Params:
    """Parameters that `save_params` wrote, laid out by `shardings`, in their types on disk. Refused where one is not finite."""
    folder = _folder(run, name)
    if not folder.exists():
        raise UserError(
            f"{run} holds no {name} model (no {folder.relative_to(run.resolve())}): it was interrupted before its first step, "
            "or the folder was lost; the command that began it makes it."
        )
    way_out = f"delete {folder}: the command that made it makes it again"
    if not (run / CONFIG).exists() or format_of(run) > 1:
        digests.check_folder(folder, id_of(run), way_out)
    with damaged.reading(folder, way_out), ocp.StandardCheckpointer() as checkpointer:
        of_disk, lying, whole = _in_form(folder, shapes, shardings)
        there = _check_shapes(folder, of_disk)
        of_disk = jax.tree.map(lambda x, y: jax.ShapeDtypeStruct(x.shape, y.dtype), of_disk, there)
        params = whole(checkpointer.restore(folder, _laid_out(of_disk, lying)))
    check_finite(folder, params, f"Remove {run} and make it anew, with a lower learning rate if the fit had diverged")
    return params


def check_finite(folder: Path, tree: Any, way_out: str) -> None:
    """Refuse what was read from `folder` where it holds a number that is not finite, with the array's name."""
    if (name := not_finite(tree)) is not None:
        raise UserError(
            f"{folder} holds a number that is not finite, in {name}: it was saved after its fit or run had diverged, which "
            f"older versions of kljax did, or the file was changed. {way_out}."
        )


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
    if older.is_older(_shapes_by_name(_arrays_in(_folder(run, REFERENCE)))):  # by its names, which the hash is of
        named = older.as_hashed(reference if base is reference else {BASE: base, REFERENCE: reference})
        return base, reference, params_hash(named)
    return base, reference, frozen_hash(base, reference)


def load_start(run: Path, shapes: Params, shardings: Params) -> Params:
    """The model that the policy started from, where it was saved by itself; None where it was not."""
    return load_params(run, shapes, shardings, START) if _folder(run, START).exists() else None


def frozen_hash(base: Params, reference: Params) -> str:
    """The hash by which a checkpoint knows the frozen parameters that it was trained with."""
    return params_hash(stack(reference)) if base is reference else params_hash(stack({BASE: base, REFERENCE: reference}))


def _folder(run: Path, name: str) -> Path:
    return (run / "checkpoints" / name).resolve()


def _laid_out(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _in_form(folder: Path, shapes: Any, shardings: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Shapes and shardings in the form that a folder has, and the way from there to the stacked one."""
    if not older.is_older(_shapes_by_name(_arrays_in(folder))):
        return shapes, shardings, lambda tree: tree
    layers = older.depth(shapes)

    def whole(tree: Any) -> Any:
        return jax.device_put(older.stacked(tree), shardings)

    return older.one_by_one(shapes, layers), older.one_by_one(shardings, layers), whole


def _check_shapes(folder: Path, shapes: Any, parts: list[str] | None = None) -> Any:
    """Refuse what was saved from another model, by name, before any array is read; what the folder says of its arrays.

    `parts`: of what is there, these alone, by dotted names.
    """
    tree = _arrays_in(folder)
    here, there = _shapes_by_name(shapes), _shapes_by_name(tree)
    if parts is not None:
        there = {name: shape for name, shape in there.items() if any(name.startswith(f"{part}.") for part in parts)}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            found, expected = (f"the shape {s[name]}" if name in s else "no such array" for s in (there, here))
            raise UserError(
                f"{folder} holds another model than the config describes: {name} has {found} there, {expected} here."
            )
    if parts is not None:
        return None
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

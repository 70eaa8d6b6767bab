"""The safetensors files of a Hugging Face directory: their headers, shards of their tensors, and writing them.

Pickles are never opened. Nothing here knows what a tensor is for.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout
from huggingface_hub import split_state_dict_into_shards_factory
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kljax import reading
from kljax.disk import writing_to
from kljax.errors import UserError
from kljax.json_text import json_text, shown

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CARD = "README.md"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HEADS_BESIDE = ("value_head.*", "v_head.*")
OF_A_MODEL = ("*.safetensors", *HEADS_BESIDE)
"""Files that hold a part of a model, or another one. (Pickles of the same weights lie beside many a safetensors file.)"""
OTHER_FORMATS = ("consolidated*.safetensors", "adapter_model.safetensors")
"""The same weights under Mistral's own names, which transformers does not read either, and PEFT's adapters."""
FLOATS = ("F64", "F32", "F16", "BF16")

FILE_SIZE = "5GB"  # of one file of weights; what is more goes into several
CHUNK = 4 * 2**20  # bytes of a file that are looked at together
LONGEST = 80  # characters of a value in a message
SAMPLE = 64  # bytes that the fingerprint sees at the beginning, the middle and the end of each tensor

Ranges = tuple[tuple[int, int], ...]
"""From where to where along each axis."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of its file describes it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LowRank:
    """scale·B·A, or its transpose, which is added to a tensor as it lies in its file. A is [rank, …], B is […, rank]."""

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """A part of the product, float32."""
        out, into = (columns, rows) if self.transposed else (rows, columns)
        product = self.scale * (_read(self.b, (out, slice(None))) @ _read(self.a, (slice(None), into)))
        return product.T if self.transposed else product


def _read(tensor: Tensor, part: tuple[slice, ...]) -> np.ndarray:
    what = f"'{tensor.name}' in '{tensor.file}'"
    with safe_open(tensor.file, "numpy") as opened:
        return as_dtype(_checked(opened.get_slice(tensor.name)[part], what), np.dtype(np.float32), what)


def has_weights(folder: Path) -> bool:
    """Whether the directory holds a model's weights, as safetensors."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def read_headers(folder: Path, name: str) -> dict[str, Tensor]:
    """All tensors of the directory. `name` is how messages begin.

    UserError where a file is missing or cut off, where files and index are not of one model, or where all weights are pickled.
    """
    tensors = read_headers_of(_files(folder, name), name)
    if not (folder / INDEX).exists():
        return tensors
    listed = _weight_map(folder, name)
    for key, tensor in tensors.items():
        if listed.get(key) != tensor.file.name:
            raise UserError(
                f"{name}: '{tensor.file}' has the tensor '{key}', which {INDEX} looks for in {listed.get(key, 'no file')}; "
                "expected files and index of one model."
            )
    if absent := sorted(listed.keys() - tensors.keys()):
        raise UserError(f"{name}: '{folder}' has no tensor '{absent[0]}', which {INDEX} speaks of; expected all of them.")
    return tensors


def read_headers_of(paths: Iterable[Path], name: str) -> dict[str, Tensor]:
    """All tensors of these files. `name` is how messages begin. UserError where one is cut off."""
    tensors: dict[str, Tensor] = {}
    for file in paths:
        try:
            reading.check_file(file)
            with safe_open(file, "numpy") as opened:
                for key in opened.keys():  # noqa: SIM118  (it is no dictionary)
                    piece = opened.get_slice(key)
                    tensors[key] = Tensor(file, key, tuple(piece.get_shape()), piece.get_dtype())
                    if 0 in tensors[key].shape:  # such a shape may say any size, of no bytes
                        raise ValueError(f"its tensor '{key}' has the shape {list(tensors[key].shape)}, which holds nothing")
        except (SafetensorError, OSError, ValueError) as error:
            size = f" of {file.stat().st_size:,} bytes" if file.exists() else ""
            raise UserError(
                f"{name}: cannot read '{file}'{size}, which is no safetensors file or is cut off ({error}); get it again."
            ) from None
    return tensors


def _files(folder: Path, name: str) -> list[Path]:
    """The files with the weights: one, or those of the index. No other may lie beside them."""
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        raise _no_weights(folder, name)
    files = [folder / WEIGHTS]
    if (folder / INDEX).exists():
        files = sorted({folder / file for file in _weight_map(folder, name).values()})
        absent = sorted(file.name for file in files if not file.exists())
        if absent:
            raise UserError(f"{name}: '{folder}' has no {absent[0]}, which {INDEX} speaks of; expected all {len(files)} files.")
    for file in sorted({path for pattern in OF_A_MODEL for path in folder.glob(pattern)}):
        if file not in files and not any(file.match(pattern) for pattern in OTHER_FORMATS):
            known = INDEX if (folder / INDEX).exists() else WEIGHTS
            raise UserError(
                f"{name}: '{folder}' has {file.name}, which is no part of the model in {known}; expected one model. Delete "
                "what does not belong to it (in a copy of the directory, if others need it)."
            )
    return files


def _weight_map(folder: Path, name: str) -> dict[str, str]:
    """Each tensor's file, as the index says: the name of one beside it, wherever the index is from."""
    try:
        index = reading.read_json(folder / INDEX)
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: cannot read '{folder / INDEX}' ({error}); expected what save_pretrained writes.") from None
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not where or not isinstance(where, dict):
        raise UserError(f"{name}: '{folder / INDEX}' has no weight_map; expected what save_pretrained writes.")
    for key, file in where.items():
        if not reading.is_name(file) or not file.endswith(".safetensors"):
            raise UserError(
                f"{name}: '{folder / INDEX}' says that the tensor '{key}' is in {shown(file, LONGEST)}; expected the name of a "
                ".safetensors file beside it."
            )
    return where


def _no_weights(folder: Path, name: str) -> UserError:
    others = sorted(file.name for pattern in (*PICKLES, *OTHER_FORMATS) for file in folder.glob(pattern))
    found = "no weights"
    if others and others[0].endswith(".safetensors"):
        found = f"only weights of another format ({others[0]})"
    elif others:
        found = f"only pickled weights ({others[0]}), which can run any code when opened"
    return UserError(
        f"{name}: '{folder}' has {found}; expected {WEIGHTS}. To convert pickles that you trust, where PyTorch is installed: "
        "transformers.AutoModelForCausalLM (or its like for another head).from_pretrained(DIR).save_pretrained(NEW_DIR)."
    )


def fingerprint(config: Path, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a config file, of each weight file's size and header, and of a few bytes of each tensor: a look, not a read.

    Training changes whole tensors, which it sees; a single number that is changed by hand it may not.
    """
    digest = hashlib.sha256(reading.read_bytes(config))
    for file in sorted({tensor.file for tensor in tensors.values()}):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            header = opened.read(int.from_bytes(opened.read(8), "little"))
            digest.update(header)
            data = opened.tell()
            for key, entry in _header(header, file).items():
                if key != "__metadata__":
                    start, end = entry["data_offsets"]
                    for place in (start, (start + end) // 2, max(start, end - SAMPLE)):
                        opened.seek(data + place)
                        digest.update(opened.read(min(SAMPLE, end - place)))
    return digest.hexdigest()


def _header(text: bytes, file: Path) -> dict[str, Any]:
    try:
        return reading.strict_json(text)
    except ValueError as error:
        raise UserError(f"cannot read '{file}': of its header, {error}; get it again.") from None


@dataclass(frozen=True)
class Part:
    """The source of one parameter, or of a layer's part of one.

    `transposed`: it lies in the file as [out, in]. `third`: it is that third of the file's last axis. `added` to the tensor in
    the file: a low-rank product.
    """

    tensor: Tensor
    transposed: bool
    third: int | None
    added: LowRank | None = None


def place(parts: Sequence[Part], shape: tuple[int, ...], dtype: Any, sharding: Sharding, *, layers: bool) -> jax.Array:
    """An array of this shape, dtype and sharding: the only part, or with `layers` as many as the first axis has places.

    One shard of one part at a time, of which the host keeps nothing.
    """
    devices: dict[Ranges, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        ranges = tuple(each.indices(size)[:2] for each, size in zip(index or (), shape, strict=True))
        devices.setdefault(ranges, []).append(device)
    arrays = {}
    for ranges, copies in devices.items():
        if layers:
            arrays |= _place_layers(parts, ranges, np.dtype(dtype), copies)
        else:
            arrays |= _on(copies, read_block(parts[0], ranges, np.dtype(dtype)))
    return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays.values()))


def _place_layers(parts: Sequence[Part], ranges: Ranges, dtype: np.dtype, devices: list[Any]) -> dict[Any, jax.Array]:
    """These ranges, on each of the devices: layer after layer is put into its place there. No mesh divides the layers' axis."""
    shape = [stop - start for start, stop in ranges]
    arrays = {device: jnp.zeros(shape, dtype, device=device) for device in devices}
    for layer, part in enumerate(parts):
        for device, block in _on(devices, read_block(part, ranges[1:], dtype)).items():
            arrays[device] = _put(arrays[device], block, layer)
    jax.block_until_ready(list(arrays.values()))
    return arrays


@partial(jax.jit, donate_argnums=0)
def _put(layers: jax.Array, block: jax.Array, layer: Any) -> jax.Array:
    return layers.at[layer].set(block)


def _on(devices: list[Any], block: np.ndarray) -> dict[Any, jax.Array]:
    """The block on each device; when it is there, so that the next one is not read while the host holds this one."""
    return dict(zip(devices, jax.block_until_ready([jax.device_put(block, device) for device in devices]), strict=True))


def read_block(part: Part, ranges: Ranges, dtype: np.dtype) -> np.ndarray:
    """These ranges of the parameter, cast. The file is opened anew for each chunk: pages of it that were seen are let go.

    What is `added` is so in float32, chunk by chunk. UserError where a number is not finite, or is not when it is cast.
    """
    tensor, third, added = part.tensor, part.third, part.added
    block = np.empty([stop - start for start, stop in ranges], dtype)
    target, theirs = (block.T, ranges[::-1]) if part.transposed else (block, ranges)
    if third is not None:
        width = tensor.shape[-1] // 3
        theirs = (*theirs[:-1], (theirs[-1][0] + third * width, theirs[-1][1] + third * width))
    (first, last), rest = theirs[0], tuple(slice(*part) for part in theirs[1:])
    row_bytes = 8 * math.prod(tensor.shape[1:])  # of the widest type
    step = max(1, CHUNK // row_bytes)
    for start in range(first, last, step):
        stop = min(start + step, last)
        rows = slice(start, stop)
        with safe_open(tensor.file, "numpy") as opened:
            chunk = opened.get_slice(tensor.name)[(rows, *rest)]
        what = f"'{tensor.name}' in '{tensor.file}'"
        chunk = _checked(chunk, what)
        if added is not None:
            what = f"the sum of {what} and the adapter's '{added.b.name}'·'{added.a.name}'"
            chunk = as_dtype(chunk, np.dtype(np.float32), what) + added.block(rows, *rest)
        target[start - first : stop - first] = as_dtype(chunk, dtype, what)
    return block


def _checked(numbers: np.ndarray, what: str) -> np.ndarray:
    if not (finite := np.isfinite(numbers)).all():
        raise UserError(
            f"{what} holds {numbers[~finite][0]}, expected finite numbers. Whatever wrote it had diverged, or the file is "
            "damaged: get it again, or take an earlier checkpoint of that training."
        )
    return numbers


def as_dtype(numbers: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    """The numbers in another type. UserError where it has no room for one of them: it would be infinite. `what` holds them."""
    with np.errstate(over="ignore"):
        cast = numbers.astype(dtype, copy=False)
    if not (finite := np.isfinite(cast)).all():
        expected = "smaller numbers" if dtype == np.float32 else "float32"
        raise UserError(f"{what} holds {float(numbers[~finite][0]):g}, for which {dtype} is too small; expected {expected}.")
    return cast


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write in, which becomes `out` when all is written.

    What a process that was killed has left of it is removed. UserError where `out` is there already, or another process writes
    it.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' is there already; expected a directory that is not there yet, or is empty.")
    partial = out.absolute().with_name(f".{out.name}.partial")
    with writing_to(out), _alone(out, partial.with_name(f"{partial.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            partial.rename(out.absolute())
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _alone(out: Path, file: Path) -> Iterator[None]:
    """While no other process does the same. The file is not kept."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"'{out}' is being written by another process; wait until it ends, or choose another path.") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is locked: whoever has opened it sees that it is no file any more
        lock.release()


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, number by number; read in pieces."""
    if one.shape != other.shape:
        return False
    step = max(1, CHUNK // (8 * math.prod(one.shape[1:])))
    for start in range(0, one.shape[0], step):
        rows = slice(start, min(start + step, one.shape[0]))
        if not np.array_equal(_read_rows(one, rows), _read_rows(other, rows)):
            return False
    return True


def _read_rows(tensor: Tensor, rows: slice) -> np.ndarray:
    with safe_open(tensor.file, "numpy") as opened:
        return opened.get_slice(tensor.name)[rows]


def write_weights(folder: Path, sizes: Mapping[str, int], make: Callable[[str], np.ndarray]) -> None:
    """model.safetensors, or several files and their index where they exceed FILE_SIZE; `make` gives a tensor by its name."""
    split = split_state_dict_into_shards_factory(
        dict(sizes), get_storage_size=lambda size: size, filename_pattern="model{suffix}.safetensors", max_shard_size=FILE_SIZE
    )
    for file, names in split.filename_to_tensors.items():
        save_file({name: make(name) for name in names}, str(folder / file), metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # safetensors lets the owner alone read it
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json_text(index, indent=2) + "\n", "utf-8")

"""Single faults in the files of a finished run and its base: none may change a number without a word, none is a traceback.

python -m tests.faults.single           # 200 faults (make faults)
python -m tests.faults.single 17 --only # one again

A fault is a bit that flips, a file that is cut off, deleted, or of which only the first half was copied. After each the run is
looked at (its last step, prompts, evaluations) and made longer by two steps. Each of the two has to end in one sentence that
names a file, to say that something was set aside or made anew, or to give what it gives without the fault.
"""

import argparse
import collections
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = 200
FREE = ("time/", "memory/")  # figures that no two launches share
SAID = ("set aside", "is missing", "is taken as it is", "begins anew")


def flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(max(len(content), 1))])


def half(file: Path, rng: random.Random) -> None:
    """Copied by something that reserves the room first: the rest is zeros."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def delete(file: Path, rng: random.Random) -> None:
    file.unlink()


KINDS: dict[str, Callable[[Path, random.Random], None]] = {"flip": flip, "cut": cut, "half": half, "delete": delete}


class Material:
    """A finished run below `root`, and what it gives without a fault."""

    def __init__(self, root: Path, overrides: list[str]):
        from kljax.command_line import compose
        from kljax.config import Config
        from kljax.runs import evaluation, evaluation_files
        from kljax.training.loop import train

        self.root, self._compose = root, lambda where, *more: compose([*overrides, f"run.root={where}", *more], Config)
        config = self._compose(root)
        self._steps = config.steps
        self.path = train(config)
        restored = self._restore(self.path)
        evaluation_files.save_own(evaluation.evaluate(restored, config.evaluation), self.path)
        self.files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file() and ".lock" not in file.name)
        with tempfile.TemporaryDirectory() as folder:
            run = self.copy(Path(folder))
            self.seen, self.went_on = self.look(run), self.go_on(Path(folder), run)

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.root, folder, dirs_exist_ok=True)
        return folder / self.path.relative_to(self.root)

    def look(self, run: Path) -> Any:
        """What an analysis sees."""
        from kljax.devices.state import params_hash
        from kljax.runs import evaluation_files

        restored = self._restore(run)
        prompts = restored.held_out_prompts()
        models = [params_hash(each) for each in (restored.policy, restored.reference)]
        found = [{"metrics": dict(each["metrics"]), "notes": each["notes"]} for each in evaluation_files.load_all(run)]
        ids = [row[mask].tolist() for row, mask in zip(prompts.tokens, prompts.mask, strict=True)]
        return [restored.step, restored.beta, models, ids, prompts.rows.to_list(), found]

    def go_on(self, root: Path, run: Path) -> Any:
        """What a run gives that is made longer: its last state and every line of its log."""
        from kljax.runs.directory import read_lines
        from kljax.training.loop import train

        train(self._compose(root, f"steps={self._steps + 2}"))
        lines = read_lines(run / "metrics.jsonl")
        known = [{name: value for name, value in line.items() if not name.startswith(FREE)} for line in lines]
        return [self.look(run)[:-1], known]

    def _restore(self, run: Path) -> Any:
        from kljax.config import MeshConfig
        from kljax.runs.restore import restore

        return restore(run, "latest", MeshConfig(data=1, fsdp=1, tensor=1))


def drawn(material: Material, number: int) -> tuple[Path, str]:
    """The file and the kind of fault of a number."""
    rng = random.Random(number)
    return rng.choice(material.files), rng.choice(list(KINDS))


def plant(material: Material, number: int) -> dict[str, Any]:
    """The fault of a number, and how the two acts end."""
    return plant_in(material, *drawn(material, number), number)


def plant_in(material: Material, name: Path, kind: str, number: int) -> dict[str, Any]:
    """A fault in this file, and how the two acts end: sentence, said, same, or SILENT; a traceback is raised."""
    from kljax.errors import UserError

    ends, sentences = {}, {}
    for act in ("look", "go_on"):
        with tempfile.TemporaryDirectory() as folder:
            run = material.copy(Path(folder))
            file = Path(folder) / name
            before = file.read_bytes()
            KINDS[kind](file, random.Random(number))
            if file.exists() and file.read_bytes() == before:
                ends[act] = "no fault"
                continue
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said):
                    result = material.look(run) if act == "look" else material.go_on(Path(folder), run)
            except UserError as error:
                ends[act], sentences[act] = "sentence", str(error)
                continue
            words = " ".join(said.getvalue().split())
            same = result == (material.seen if act == "look" else material.went_on)
            ends[act] = "same" if same else "said" if any(word in words for word in SAID) else "SILENT"
            sentences[act] = words[-400:]
    return {"number": number, "file": str(name), "kind": kind, "ends": ends, "said": sentences}


def overrides_of(cache: str) -> list[str]:
    """A run of seconds."""
    small = ["layers=1", "d_model=16", "d_mlp=32", "heads=2", "kv_heads=2", "head_dim=8"]
    return [
        *(f"model.{one}" for one in small),
        *("data.source.sentences=400", "pretrain.steps=20", "pretrain.eval_every=10", "pretrain.batch=16"),
        *("pretrain.optimizer.warmup_steps=2", "rollout.prompts=8", "rollout.samples=2", "rollout.max_new_tokens=8", "steps=6"),
        *(
            "optimizer.warmup_steps=1",
            "evaluation.prompts=16",
            "evaluation.samples=2",
            "run.save_every=2",
            "run.sample_every=2",
        ),
        *("mesh.data=1", "run.variant=v", f"run.compilation_cache={cache}"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="?", type=int, default=FAULTS)
    parser.add_argument("--only", action="store_true", help="this one alone, with what was said")
    arguments = parser.parse_args()
    from kljax.runs.setup import use_compilation_cache

    cache = str(Path("~/.cache/kljax").expanduser())
    use_compilation_cache(cache)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            material = Material(Path(folder), overrides_of(cache))
        numbers = [arguments.faults] if arguments.only else range(arguments.faults)
        found = [plant(material, number) for number in numbers]
    counts = collections.Counter((act, end) for each in found for act, end in each["ends"].items())
    for (act, end), count in sorted(counts.items()):
        print(f"{act:6} {end:9} {count}")
    wrong = found if arguments.only else [each for each in found if "SILENT" in each["ends"].values()]
    for each in wrong:
        print(json.dumps(each, indent=1))
    return 0 if arguments.only else len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())

"""What a reader does who has the README alone: clone, install, each command as it is printed, as a process of its own.

`python -m tests.readme.fresh_clone` needs Python, git and the package index; what is committed is what is tried. `--only TEXT`
takes the commands with this text in them and what they need, `--keep` leaves the folder there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.readme.commands import ROOT, in_markdown
from tests.readme.plans import Plan, plan, script_of

QUIET = {"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
PATIENCE = 1800  # seconds for a command
SERVER = 20  # seconds after which a server is taken to have begun
NEEDED = "python experiments/train.py"  # what others restore


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="of the commands those with this text in them, and what they need")
    parser.add_argument("--short", action="store_true", help="with a few small steps each, instead of as printed: 15 minutes")
    parser.add_argument("--keep", action="store_true", help="do not remove the folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kljax-readme-"))
    clone, failed = folder / "kljax", []
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = fresh_environment(folder)
        plans = chosen([plan(command) for command in in_markdown()], arguments.only)
        for one in (one for one in plans if one.command.text.startswith("pip ")):
            failed += attempt(one, clone, environment, arguments.short)
        subprocess.run(["python", "-m", "tests.readme.fixtures", str(clone)], cwd=clone, env=environment, check=True)
        for one in (one for one in plans if not one.command.text.startswith("pip ")):
            failed += attempt(one, clone, environment, arguments.short)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(failed)} failed" if failed else "all as the README says")
    for one in failed:
        print(f"  {one.command}")
    return 1 if failed else 0


def chosen(plans: list[Plan], only: str | None) -> list[Plan]:
    """Each command once, in the order in which they are printed."""
    once = list({one.words: one for one in reversed(plans)}.values())[::-1]
    text = [one.command.text for one in once]
    kept = [only is None or only in said or said.startswith("pip ") or bare(said) == NEEDED for said in text]
    return [one for one, keep in zip(once, kept, strict=True) if keep]


def bare(text: str) -> str:
    """A command without its comment."""
    return text.partition("#")[0].strip()


def fresh_environment(folder: Path) -> dict[str, str]:
    """A new virtual environment in front of PATH, a home folder without caches, and no package but the new environment's."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (folder / "home").mkdir()
    others = ("PYTHON", "KLJAX", "JAX", "XLA", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {"HOME": str(folder / "home"), "PATH": f"{folder}/venv/bin:{os.environ['PATH']}", "COLUMNS": "120", **QUIET}


def attempt(one: Plan, clone: Path, environment: dict[str, str], short: bool) -> list[Plan]:
    """Run it, say how it went, and give it back if it failed."""
    if (reason := one.skipped or (one.long if short and one.long == "minutes" else None)) is not None:
        print(f"  not run    {one.command} ({reason})", flush=True)
        return []
    for target in targets(one, clone):
        shutil.rmtree(target)
    words, began = there(one.words, clone) + (shorter(one) if short else []), time.monotonic()
    server = one.words[0] == "tensorboard"
    try:
        ended = subprocess.run(
            ["env", *words],  # which takes NAME=value in front of a program
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SERVER if server else PATIENCE,
        )
        well, said = ended.returncode == 0, ended.stdout
    except subprocess.TimeoutExpired as stopped:
        said = (stopped.stdout or b"").decode()
        well = server and "TensorBoard" in said
    print(f"  {'ok' if well else 'FAILED':6} {time.monotonic() - began:5.0f} s  {one.command}", flush=True)
    if not well:
        print(said[-3000:], flush=True)
    return [] if well else [one]


def shorter(one: Plan) -> list[str]:
    """Overrides for a run of a few small steps. That which others restore has the steps that they name."""
    script, text = script_of(one.words), bare(one.command.text)
    if script not in ("train.py", "pretrain.py"):
        return []
    steps = 40 if text == NEEDED else 4
    small = [f"steps={steps}", "rollout.prompts=8", "evaluation.prompts=8", "optimizer.warmup_steps=1"]
    small += [] if "enumerable" in text else ["rollout.max_new_tokens=8"]
    small += ["run.variant=default"] if text == NEEDED else []
    return small + ([] if "pretrain.steps=0" in text else ["pretrain.steps=20", "pretrain.optimizer.warmup_steps=2"])


def there(words: tuple[str, ...], clone: Path) -> list[str]:
    """With the names that runs have got by the overrides of their commands."""
    adapted = [f"run={path.relative_to(clone)}" for path in sorted(clone.glob("runs/mine/*lora*"))]
    return [adapted[0] if adapted and word == "run=runs/mine/lora" else word for word in words]


def targets(one: Plan, clone: Path) -> Iterator[Path]:
    """Folders that the command would make and that one before it has made."""
    for word in one.words:
        if word.startswith("out=") and (clone / word.removeprefix("out=")).exists():
            yield clone / word.removeprefix("out=")


if __name__ == "__main__":
    sys.exit(main())

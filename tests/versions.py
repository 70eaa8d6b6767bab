"""The tests that hold the mathematics and a run together, with each Python found × the oldest and the newest packages allowed.

`python -m tests.versions` needs the package index and writes into build/versions/ only. Oldest is every direct dependency at
the lower bound that pyproject.toml gives, newest what the index has; what lies beneath is the newest that goes with them.
`--only TEXT` takes the rows with this text in their name, as in `--only 3.12` or `--only oldest`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "versions"
EXTRAS = "text,test"
FIRST = 11  # of Python 3: requires-python
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
NAMED = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "numpy", "pydantic")  # in the table
SELECTION = (
    "tests/kl",
    "tests/policy",
    "tests/models/test_sampling.py",
    "tests/models/test_scoring.py",
    "tests/config",
    "tests/test_command_line.py",
    "tests/data/test_tokenizers.py",
    "tests/runs/test_checkpoints.py",
    "tests/e2e/test_resume.py",
)
PATIENCE = 1800  # seconds for the tests of one row


@dataclass(frozen=True)
class Row:
    """One environment and what its tests said."""

    name: str
    versions: dict[str, str]
    said: str
    well: bool
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="of the rows those with this text in their name")
    arguments = parser.parse_args()
    uv = own_uv()
    found = dict(sorted(pythons(uv).items()))
    print(f"Python: {', '.join(f'3.{minor} ({path})' for minor, path in found.items())}", flush=True)
    rows = []
    for minor, python in found.items():
        for age, resolution in RESOLUTIONS.items():
            if arguments.only in (name := f"3.{minor} {age}"):
                rows.append(attempt(name, uv, python, resolution))
                print(f"  {name:12} {rows[-1].seconds:5.0f} s  {rows[-1].said}", flush=True)
    print(table(rows))
    return 0 if rows and all(row.well for row in rows) else 1


def own_uv() -> Path:
    """The uv of an environment of its own, which is made where it is not there yet."""
    folder = BUILD / "uv"
    if not (folder / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], check=True)
    return folder / "bin" / "uv"


def pythons(uv: Path) -> dict[int, Path]:
    """A Python of each minor version from FIRST on that starts: this one, those on PATH, those that uv or pyenv has."""
    found: dict[int, Path] = {}
    for path in candidates(uv):
        asked = "import sys, venv; print(*sys.version_info[:2], sys.version_info.releaselevel)"
        ended = subprocess.run([path, "-c", asked], capture_output=True, text=True)
        major, minor, level = (ended.stdout.split() or ["0", "0", ""])[:3]
        if ended.returncode == 0 and major == "3" and int(minor) >= FIRST and level == "final":
            found.setdefault(int(minor), path)
    return found


def candidates(uv: Path) -> Iterator[Path]:
    """Programs that may be a Python."""
    yield Path(sys.executable)
    listing = [uv, "python", "list", "--only-installed", "--offline", "--output-format", "json", "--no-config"]
    ended = subprocess.run(listing, capture_output=True, text=True)
    yield from (Path(one["path"]) for one in json.loads(ended.stdout or "[]") if one["implementation"] == "cpython")
    yield from sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3"))


def attempt(name: str, uv: Path, python: Path, resolution: str) -> Row:
    """Make the environment, run the selection in it, and remember what was said."""
    began, folder = time.monotonic(), BUILD / name.replace(" ", "-")
    program = folder / "bin" / "python"
    quiet = {"capture_output": True, "text": True, "cwd": ROOT, "env": environment(folder)}
    made = subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, folder], **quiet)
    if made.returncode == 0:
        how = ["--quiet", "--resolution", resolution, "--python", program]
        made = subprocess.run([uv, "pip", "install", *how, "--editable", f"{ROOT}[{EXTRAS}]"], **quiet)
    if made.returncode != 0:
        (BUILD / f"{folder.name}.log").write_text(made.stdout + made.stderr)
        return Row(name, {}, f"not installed: see {BUILD.relative_to(ROOT)}/{folder.name}.log", False, time.monotonic() - began)
    listed = subprocess.run([uv, "pip", "list", "--format", "json", "--python", program], **quiet).stdout
    versions = {one["name"]: one["version"] for one in json.loads(listed)}
    tests = [program, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "--no-header", *SELECTION]
    try:
        ended = subprocess.run(tests, **quiet, timeout=PATIENCE)
        said, well = ended.stdout + ended.stderr, ended.returncode == 0
    except subprocess.TimeoutExpired:
        said, well = f"not done within {PATIENCE} s", False
    (BUILD / f"{folder.name}.log").write_text(said)
    return Row(name, versions, outcome(said), well, time.monotonic() - began)


def outcome(said: str) -> str:
    """The line in which pytest counts, or the last one."""
    lines = said.strip().splitlines() or ["nothing said"]
    return next((line.strip("= ") for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), lines[-1])


def environment(folder: Path) -> dict[str, str]:
    """This process's, without what another environment has set."""
    others = ("PYTHON", "KLJAX", "JAX", "XLA", "VIRTUAL_ENV", "UV_", "PYENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)} | {"VIRTUAL_ENV": str(folder)}


def table(rows: list[Row]) -> str:
    """Versions and outcomes in Markdown."""
    head = ["Python", *NAMED, "tests", "minutes"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        versions = [row.versions.get(name, "") for name in NAMED]
        lines.append([row.name, *versions, row.said, f"{row.seconds / 60:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

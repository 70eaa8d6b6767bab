"""Cases of damaged and hostile files: each ends well or in a UserError, within a time and a memory. A number is a case.

python -m tests.faults.fuzz                  # 2,000 cases (make faults)
python -m tests.faults.fuzz 300 --first 60   # cases 300 to 359
python -m tests.faults.fuzz 312 --only       # one again, with its traceback; --keep leaves the files that it was made of
"""

import argparse
import collections
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CASES, WORKERS = 2000, 2
SECONDS, STARTING = 10.0, 300.0  # of a case, and until a worker has imported all
MEMORY = 4 * 2**30  # bytes of address space beside what a worker has when it begins


def worker_command(base: Path, folder: Path) -> list[str]:
    """What starts a worker."""
    return [sys.executable, "-m", "tests.faults.fuzz", "--worker", str(base), str(folder)]


def run(numbers: list[int], base: Path, workers: int = WORKERS) -> dict[int, dict[str, Any]]:
    """What became of each case: {"kind", "done", "ended"} and "fault" where it is one. `base` has the valid material."""
    found: dict[int, dict[str, Any]] = {}
    left = collections.deque(numbers)
    pool = [Worker(base) for _ in range(min(workers, len(numbers)))]
    try:
        while left or any(worker.number is not None for worker in pool):
            for worker in pool:
                if worker.number is None and worker.ready and left:
                    worker.begin(left.popleft())
            select.select([worker.process.stdout for worker in pool], [], [], 0.2)
            for worker in pool:
                worker.look(found)
    finally:
        for worker in pool:
            worker.stop()
    return found


class Worker:
    """A process that runs one case after another, and is replaced where one ends it or takes too long."""

    def __init__(self, base: Path):
        self._base = base
        self._start()

    def _start(self) -> None:
        self.ready, self.number, self._rest = False, None, b""
        self._folder = Path(tempfile.mkdtemp(prefix="kljax-fault-"))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as the process lives)
        self.process = subprocess.Popen(
            worker_command(self._base, self._folder),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=environment(),
        )
        self._until = time.monotonic() + STARTING

    def begin(self, number: int) -> None:
        self.number, self._until = number, time.monotonic() + SECONDS + 2  # with copying and mutating
        self.process.stdin.write(f"{number}\n".encode())  # pyright: ignore

    def look(self, found: dict[int, dict[str, Any]]) -> None:
        """Note what it has said, or that it says nothing any more."""
        stream: Any = self.process.stdout
        while select.select([stream], [], [], 0)[0]:
            if not (part := os.read(stream.fileno(), 2**16)):
                return self._ended(found, f"the process ended, {self.process.wait()}: {self._said()}")
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in map(json.loads, lines):
                if "ready" in line:
                    self.ready = True
                else:
                    found[line["number"]] = line
                    self.number = None
        if time.monotonic() > self._until and (self.number is not None or not self.ready):
            self._ended(found, f"takes more than {SECONDS:g} s")
        return None

    def _ended(self, found: dict[int, dict[str, Any]], how: str) -> None:
        if self.number is None:
            raise RuntimeError(f"a worker cannot begin: {how}")
        about = self._folder / "about.json"
        said = json.loads(about.read_text()) if about.exists() else {}
        found[self.number] = said | {"number": self.number, "ended": "fault", "fault": how}
        self.stop()
        self._start()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace").strip()[-2000:]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            stream.close()  # pyright: ignore
        shutil.rmtree(self._folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """Of a worker: no hub, and JAX without what a case does not need."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kljax-tests"
    more = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    more |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    more |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **more, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def case(number: int, base: Path, folder: Path) -> dict[str, Any]:
    """Make the case in the folder and read it."""
    from kljax.errors import UserError
    from tests.faults.material import READERS
    from tests.faults.mutations import mutate

    rng = random.Random(number)
    kind = list(READERS)[number % len(READERS)]
    place = folder / kind
    shutil.copytree(base / kind, place, symlinks=True)
    said = {"number": number, "kind": kind, "done": mutate(place, rng)}
    (folder / "about.json").write_text(json.dumps(said))
    began = time.monotonic()
    try:
        READERS[kind](place)
        ended = {"ended": "well"}
    except UserError as error:
        ended = {"ended": "UserError", "sentence": str(error)}
        if "\n" in str(error).strip() or not str(error).strip():
            ended |= {"ended": "fault", "fault": "its sentence has several lines, or none"}
    except BaseException as error:
        import traceback

        text = traceback.format_exc()
        ended = {"ended": "fault", "fault": f"{type(error).__name__}: {str(error)[:300]}", "traceback": text[-6000:]}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return said | ended | {"seconds": round(time.monotonic() - began, 2)}


def work(base: Path, folder: Path) -> None:
    """A worker: numbers come in, lines of JSON go out."""
    import resource

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    from tests.faults.material import READERS

    for kind, read in READERS.items():  # valid material is read well, and what is compiled for it is compiled
        shutil.copytree(base / kind, folder / kind, symlinks=True)
        read(folder / kind)
        shutil.rmtree(folder / kind)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(case(int(line), base, folder)), file=answers, flush=True)


def material(folder: Path) -> Path:
    """The valid material, made once in the folder."""
    if not folder.exists():
        beside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "tests.faults.fuzz", "--make", str(beside)], cwd=ROOT, check=True, env=environment()
        )
        beside.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", nargs="?", type=int, default=0, help="the first case")
    parser.add_argument("--first", type=int, default=CASES, help="how many")
    parser.add_argument("--only", action="store_true", help="that one case, in this process")
    parser.add_argument("--keep", action="store_true", help="with --only: leave its files")
    parser.add_argument("--base", type=Path, help="where the valid material lies, or is to lie")
    parser.add_argument("--log", type=Path, help="a file for what became of each case")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        from tests.faults.material import make_all

        return make_all(arguments.make)
    if arguments.worker:
        return work(*arguments.worker)
    with tempfile.TemporaryDirectory() as temporary:
        base = material(arguments.base or Path(temporary) / "base")
        if arguments.only:
            os.environ |= environment()
            print(json.dumps(case(arguments.start, base, Path(temporary)), indent=1))
            if arguments.keep:
                sys.exit("--keep: the files are made anew by the case; see mutations.mutate")
            return None
        began = time.monotonic()
        found = run(list(range(arguments.start, arguments.start + arguments.first)), base)
    return report(found, time.monotonic() - began, arguments.log)


def report(found: dict[int, dict[str, Any]], seconds: float, log: Path | None) -> None:
    """How many ended how, by kind; each fault, with how to see it again. Exit code 1 where there is one."""
    if log:
        log.write_text("".join(json.dumps(found[number]) + "\n" for number in sorted(found)))
    counts = collections.Counter((each.get("kind", "?"), each["ended"]) for each in found.values())
    for (kind, ended), count in sorted(counts.items()):
        print(f"{kind:10} {ended:10} {count}")
    slowest = max(found.values(), key=lambda each: each.get("seconds", 0))
    print(f"{len(found)} cases in {seconds:.0f} s; the slowest took {slowest.get('seconds', 0)} s (case {slowest['number']})")
    faults = [each for _, each in sorted(found.items()) if each["ended"] == "fault"]
    for each in faults:
        print(f"\ncase {each['number']} ({each.get('kind')}): {each.get('done')}\n  {each['fault']}")
        print(f"  again: python -m tests.faults.fuzz {each['number']} --only")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

"""The runs and fits below a folder: what varies, how far each is, reward and KL, whether anything in it is broken.

kljax runs
kljax runs runs/grammar runs/bases
kljax runs --json

Reward and KL (nats per sequence) are of held-out prompts where a run was evaluated, or else of the last step that it logged.
Age is that of its youngest file. Damaged is what can be seen by names and sizes of files: restoring a step looks at all of it.
"""

import argparse
import sys
import time
from pathlib import Path

from kljax.analysis import listing
from kljax.command_line import reporting_mistakes
from kljax.progress import console
from kljax.runs import index

WIDTH = 160  # characters of a table in a file or a pipe


def main() -> None:
    """Answer the command line."""
    with reporting_mistakes():
        _main()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog=sys.argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help="runs, or folders that hold some (runs)")
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")
    arguments = parser.parse_args()
    found = [index.look(path) for path in index.find(arguments.runs)]
    varied, usual = listing.varying(found)
    if arguments.json:
        console.out(listing.json_of(found, varied, time.time()), highlight=False)
    elif not found:
        console.print(f"No runs in {', '.join(map(str, arguments.runs))}.", soft_wrap=True, markup=False)
    else:
        if not console.is_terminal:
            console.width = max(console.width, WIDTH)
        console.print(listing.table(found, varied, time.time()))
        for sentence in usual:
            console.print(sentence, soft_wrap=True, markup=False)

"""Reward against KL over finished runs: a table, a CSV and a PNG.

kljax frontier runs/grammar
kljax frontier runs/grammar/kl.beta-* --out /tmp/frontier
"""

import argparse
import sys
from pathlib import Path

from kljax.command_line import reporting_mistakes
from kljax.progress import console
from kljax.runs.config_file import find_runs, folder_of


def main() -> None:
    """Answer the command line."""
    with reporting_mistakes():
        _main()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog=sys.argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--out", type=Path, help="where frontier.csv and frontier.png go (default: the first folder given)")
    arguments = parser.parse_args()
    runs, out = find_runs(arguments.runs), arguments.out or folder_of(arguments.runs[0])

    from kljax.analysis import frontier, frontier_picture, tables

    found, said = frontier.points(runs)
    tables.show_frontier(found)
    for sentence in said:
        console.print(sentence, soft_wrap=True, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    frontier.write_csv(found, out / "frontier.csv")
    frontier_picture.plot(found, out / "frontier.png")
    console.print(f"Written to {out / 'frontier.csv'} and {out / 'frontier.png'}", soft_wrap=True)

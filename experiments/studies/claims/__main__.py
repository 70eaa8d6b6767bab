"""Recompute the claims of the field: a table, claims.json, and six figures with the numbers behind them.

python -m experiments.studies.claims
python -m experiments.studies.claims --out /tmp/claims

Exit code 1 where a row does not hold.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kljax.command_line import reporting_mistakes
from kljax.errors import UserError
from kljax.progress import console


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m experiments.studies.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/claims"), help="where claims.json and the figures go (%(default)s)"
    )
    out = parser.parse_args(arguments).out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, expected a folder.")
    out.mkdir(parents=True, exist_ok=True)

    from experiments.studies.claims import figures, table

    rows = table.rows()
    table.write_json(rows, out / "claims.json")
    figures.write(figures.FIGURES, out)
    table.show(rows)
    console.print(f"Written to {out}: claims.json and {', '.join(figures.FIGURES)} (.png, .csv)", soft_wrap=True)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    with reporting_mistakes():
        sys.exit(main())

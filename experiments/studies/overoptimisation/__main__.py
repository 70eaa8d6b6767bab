"""A proxy reward and a gold one against KL over finished runs: a table, a CSV, a PNG and the fitted form of Gao et al. 2022.

python -m experiments.studies.overoptimisation runs/overoptimisation
python -m experiments.studies.overoptimisation runs/mine --proxy small --gold large --out /tmp/figure
"""

import argparse
from pathlib import Path

from kljax.command_line import reporting_mistakes
from kljax.progress import console
from kljax.runs.config_file import find_runs, folder_of


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.studies.overoptimisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--proxy", default="proxy", help="the reward term that was trained on")
    parser.add_argument("--gold", default="gold", help="the reward term of weight 0")
    parser.add_argument("--out", type=Path, help="where overoptimisation.csv and .png go (default: the first folder given)")
    arguments = parser.parse_args()
    runs, out = find_runs(arguments.runs), arguments.out or folder_of(arguments.runs[0])

    from experiments.studies.overoptimisation import study

    found, said = study.points(runs, arguments.proxy, arguments.gold)
    fitted = study.fit_gold(found)
    study.show(found, fitted)
    for sentence in said:
        console.print(sentence, soft_wrap=True, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    study.write_csv(found, out / "overoptimisation.csv")
    study.plot(found, fitted, out / "overoptimisation.png")
    console.print(f"Written to {out / 'overoptimisation.csv'} and {out / 'overoptimisation.png'}", soft_wrap=True)


if __name__ == "__main__":
    with reporting_mistakes():
        main()

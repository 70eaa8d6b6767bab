"""The claims of CLAIMS.md, recomputed: a row for every figure that is stated there, the real code's beside it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.studies.claims import control, estimators, gradients, modes, optimum, overoptimisation
from experiments.studies.claims.row import Row
from kljax.json_text import json_text
from kljax.progress import console

CLAIMS: dict[int, tuple[Callable[[], list[Row]], ...]] = {
    1: (gradients.penalties_of_one_state, gradients.formulas_of_one_state),
    2: (gradients.sequence_against_token, gradients.token_local_error, gradients.penalties_on_random_trees),
    3: (
        optimum.table_of_optima,
        optimum.regret_is_a_kl,
        optimum.slopes_of_the_frontier,
        optimum.forward_and_reverse_optimum,
        optimum.what_sampled_penalties_converge_to,
        optimum.token_level_is_sequence_level,
    ),
    4: (
        estimators.schulmans_table,
        estimators.closed_forms,
        estimators.ratio_is_chi_squared,
        estimators.infinite_variance,
    ),
    5: (estimators.rao_blackwell_can_have_more_variance, estimators.rao_blackwell_usually_has_less),
    6: (optimum.bounds_of_best_of_n, optimum.best_of_n_of_a_uniform, optimum.pmf_of_best_of_n, optimum.win_rates),
    7: (overoptimisation.square_root_law,),
    8: (overoptimisation.quadratic_form, overoptimisation.logarithmic_form, overoptimisation.heavy_tail),
    9: (control.saturated_controller, control.trace_of_the_controller),
    10: (gradients.f_divergences,),
    11: (modes.covering_and_seeking, modes.family_that_contains_the_target, modes.maximum_likelihood_is_forward_kl),
}
"""By number. Each check can be called alone and gives its rows; claim 12 has no figures."""

WIDTH = 136  # characters that the table needs for one line a row


def rows() -> list[Row]:
    """Of all claims, in order."""
    return [row for checks in CLAIMS.values() for check in checks for row in check()]


def write_json(found: Sequence[Row], file: Path) -> None:
    """A list of rows, each with whether it holds."""
    file.write_text(json_text([asdict(row) | {"ok": row.ok} for row in found], indent=1) + "\n", "utf-8")


def read_json(file: Path) -> list[Row]:
    """The rows that were written."""
    return [Row(**{key: value for key, value in row.items() if key != "ok"}) for row in json.loads(file.read_bytes())]


def show(found: Sequence[Row]) -> None:
    """A table, the claims apart, and how many rows hold; the source stands at the first of the rows that share it."""
    table = Table(
        title="Claims: what is stated and what this code computes", title_justify="left", box=box.SIMPLE_HEAD, width=WIDTH
    )
    table.add_column("claim", justify="right")
    for label in ("what", "source"):
        table.add_column(label)
    for label in ("expected", "obtained", "tolerance", "ok"):
        table.add_column(label, justify="right", no_wrap=True)
    for before, row, after in zip([None, *found[:-1]], found, [*found[1:], None], strict=True):
        figures = (
            f"{row.relation} {row.expected:.7g}",
            f"{row.obtained:.7g}",
            f"{row.tolerance:.0e}" if row.tolerance else "0",
        )
        verdict = Text("yes") if row.ok else Text("NO", style="bold red")
        source = "" if before and before.source == row.source else row.source
        last_of_claim = after is None or after.claim != row.claim
        table.add_row(str(row.claim), Text(row.what), source, *figures, verdict, end_section=last_of_claim)
    console.print(table, crop=False)  # a narrow terminal wraps, a file keeps a line a row
    console.print(f"{sum(row.ok for row in found)} of {len(found)} rows hold.")

"""The form of Gao et al. is found again in runs that have it, and what is not there is said."""

import json

import numpy as np
import pytest

from kljax.analysis import overoptimisation
from kljax.errors import UserError

ALPHA, BETA, PROXY_SLOPE = 1.5, 0.6, 2.0  # the gold reward's form, and a proxy reward that goes on rising
BETAS = [1.0, 0.3, 0.1, 0.03, 0.01]
KLS = [0.2, 1.0, 4.0, 16.0, 36.0]


def write_run(folder, beta, kl, terms=("small", "large")):
    d = np.sqrt(kl)
    values = dict(zip(terms, (PROXY_SLOPE * d - 1, d * (ALPHA - BETA * np.log(d)) - 0.5), strict=True))
    metrics = {"kl/reverse_exact_seq": kl, "kl/reverse_exact_seq_se": 0.1}
    for name, value, of_reference in zip(terms, values.values(), (-1.0, -0.5), strict=True):
        metrics |= {
            f"reward/terms/{name}": value,
            f"reward/terms/{name}_se": 0.05,
            f"reward/reference_terms/{name}": of_reference,
        }
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: x\nkl: {{beta: {beta}, controller: {{kind: fixed}}}}\n")
    (folder / "evaluation" / "step_000150.json").write_text(json.dumps({"step": 150, "metrics": metrics}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / str(beta), beta, kl) for beta, kl in zip(BETAS, KLS, strict=True)]


def test_the_fit_finds_the_form_again(runs):
    found = overoptimisation.points(runs, "small", "large")
    fitted = overoptimisation.fit_gold(found)
    assert [point.beta for point in found] == BETAS
    np.testing.assert_allclose([fitted.alpha, fitted.beta, fitted.explained], [ALPHA, BETA, 1.0], rtol=1e-9)
    np.testing.assert_allclose(fitted.peak, np.exp(ALPHA / BETA - 1), rtol=1e-9)


def test_a_run_that_is_not_finished_is_left_out(runs, tmp_path):
    (tmp_path / "unfinished").mkdir()
    assert len(overoptimisation.points([*runs, tmp_path / "unfinished"], "small", "large")) == len(runs)


def test_a_term_that_is_not_there_is_said(runs):
    with pytest.raises(UserError, match=r"has no reward term 'larg'; it has: small, large\. Did you mean 'large'\?"):
        overoptimisation.points(runs, "small", "larg")


def test_two_runs_are_too_few(runs):
    with pytest.raises(UserError, match="expected at least 3 finished runs to fit a curve to, got 2"):
        overoptimisation.points(runs[:2], "small", "large")


def test_numbers_and_picture_are_written(runs, tmp_path):
    found = overoptimisation.points(runs, "small", "large")
    overoptimisation.write_csv(found, tmp_path / "o.csv")
    overoptimisation.plot(found, overoptimisation.fit_gold(found), tmp_path / "o.png")
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + len(BETAS)
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")

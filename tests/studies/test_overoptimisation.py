"""The form of Gao et al. is found again in runs that have it, and what is not there is said."""

import numpy as np
import pytest

from experiments.studies.overoptimisation import study
from kljax.errors import UserError

ALPHA, BETA, PROXY_SLOPE = 1.5, 0.6, 2.0  # the gold reward's form, and a proxy reward that goes on rising
BETAS = [1.0, 0.3, 0.1, 0.03, 0.01]
KLS = [0.2, 1.0, 4.0, 16.0, 36.0]


@pytest.fixture
def runs(write_run, tmp_path):
    made = []
    for beta, kl in zip(BETAS, KLS, strict=True):
        d = np.sqrt(kl)
        rewards = {"small": (PROXY_SLOPE * d - 1, -1.0), "large": (d * (ALPHA - BETA * np.log(d)) - 0.5, -0.5)}
        figures = {f"reward/terms/{name}": policy for name, (policy, _) in rewards.items()}
        figures |= {f"reward/reference_terms/{name}": reference for name, (_, reference) in rewards.items()}
        made.append(write_run(tmp_path / str(beta).replace(".", "_"), f"kl.beta={beta}", kl=kl, more=figures))
    return made


def test_the_fit_finds_the_form_again(runs):
    found, _ = study.points(runs, "small", "large")
    fitted = study.fit_gold(found)
    assert [point.beta for point in found] == BETAS
    np.testing.assert_allclose([fitted.alpha, fitted.beta, fitted.explained], [ALPHA, BETA, 1.0], rtol=1e-9)
    np.testing.assert_allclose(fitted.peak, np.exp(ALPHA / BETA - 1), rtol=1e-9)


def test_a_run_that_is_not_finished_is_left_out(runs, tmp_path):
    found, said = study.points([*runs, tmp_path / "unfinished"], "small", "large")
    assert len(found) == len(runs)
    assert said == [f"Left out, not finished: {tmp_path / 'unfinished'}"]


def test_a_term_that_is_not_there_is_said(runs):
    with pytest.raises(UserError, match=r"has no reward term 'larg'; it has: small, large\. Did you mean 'large'\?"):
        study.points(runs, "small", "larg")


def test_two_runs_are_too_few(runs):
    with pytest.raises(UserError, match="expected at least 3 finished runs to fit a curve to, got 2"):
        study.points(runs[:2], "small", "large")


def test_numbers_and_picture_are_written(runs, tmp_path):
    found, _ = study.points(runs, "small", "large")
    study.write_csv(found, tmp_path / "o.csv")
    study.plot(found, study.fit_gold(found), tmp_path / "o.png")
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + len(BETAS)
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")

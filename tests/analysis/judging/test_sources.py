"""What a and b may name, and that the completions of an evaluation which is there are those that are judged."""

import json

import pytest

from kljax.analysis.judging import sources
from kljax.analysis.judging.sources import Written
from kljax.errors import UserError
from kljax.runs.config_file import FIT, KIND

ROWS = [
    {"prompt": "p", "completion": "x", "reward": 1, "who": "me"},
    {"prompt": "q", "completion": ""},
    {"prompt": "p", "completion": "y"},
]


def lines(file, rows):
    file.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows), "utf-8")
    return file


def read(a, b):
    return sources.read(*sources.named(str(a), str(b)))


@pytest.fixture
def run(write_run, tmp_path, monkeypatch):
    """run(name, step, …): a run whose evaluation of this step has completions that say whose they are."""
    monkeypatch.chdir(tmp_path)

    def call(name, step=6, prompts=("p", "q", "p"), settings=None, who=("policy", "reference")):
        path = write_run(tmp_path / name, step=step, settings=settings)
        for file in (path / "evaluation").glob(f"step_{step:06d}*.json"):
            values = json.loads(file.read_text())
            if settings is None or values["settings"].items() >= settings.items():
                rows = [{"prompt": text} for text in prompts]
                for i, row in enumerate(rows):
                    row |= {one: f"{name} {one} {i}" for one in who} | {f"{one}_reward": float(i) for one in who}
                    row |= {"policy_rouge": 0.5, "policy_label": "text"}
                values["samples"] = rows
                file.write_text(json.dumps(values))
        folder = path / "checkpoints" / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").touch()
        return path

    return call


def test_a_file_has_completions_and_figures(tmp_path, capsys):
    a = lines(tmp_path / "a.jsonl", ROWS)
    b = tmp_path / "b.json"
    b.write_text(json.dumps(ROWS), "utf-8")
    first, second = read(a, b)
    assert first.texts == second.texts
    assert first.texts == {("p", 0): Written("x", {"reward": 1.0}), ("q", 0): Written(""), ("p", 1): Written("y")}
    assert f"{a}: not used, since they are no numbers in each row: who." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty, expected at least one row"),
        ("prompt,completion\n", "line 1 of .* is no JSON"),
        ('{"prompt": "p", "completion": "x"}\n{"prompt"', "line 2 of .* is no JSON"),
        ("[1]", r"entry 0 of .* is 1, expected an object"),
        (
            '{"prompt": "p", "completions": "x"}',
            r"line 1 of .* has no 'completion'; it has: prompt, completions\. Did you mean",
        ),
        ('{"prompt": "p", "completion": ["x"]}', r'has completion \["x"\], expected text'),
        ('{"prompt": "p", "completion": "\\ud800"}', "half a character"),
        ('{"prompt": "p", "completion": "x", "reward": NaN}', "NaN is no JSON"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, says):
    (tmp_path / "a.jsonl").write_text(text, "utf-8")
    lines(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(UserError, match=rf"(?s)^a: .*{says}"):
        read(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_the_evaluation_that_is_there_is_judged(run):
    """Without a model: these runs have none."""
    run("one"), run("two", prompts=("p", "r"))
    one, two = read("one", "two@6")
    assert (one.name, two.name) == ("one@6", "two@6")
    assert one.texts["p", 1] == Written("one policy 2", {"reward": 2.0, "rouge": 0.5})
    assert two.texts.keys() == {("p", 0), ("r", 0)}
    policy, reference = read("one", "reference")
    assert policy.texts == one.texts and reference.texts["q", 0] == Written("one reference 1", {"reward": 1.0})
    assert reference.name == "reference of one@6"
    swapped = read("reference", "one@latest")
    assert (swapped[0].texts, swapped[1].texts) == (reference.texts, policy.texts)
    with pytest.raises(
        UserError, match="b: got 'base', but the policy of one started from its reference; expected 'reference'"
    ):
        read("one", "base")


def test_runs_are_compared_by_evaluations_of_the_same_settings(run, capsys):
    run("one"), run("two")
    for name in ("one", "two"):
        run(name, settings={"prompts": 32}, prompts=("p", "q", "r", "s"))
    one, two = read("one", "two")
    assert len(one.texts) == len(two.texts) == 4 and "prompts=32" in one.how
    assert capsys.readouterr().out == ""
    run("three", settings={"seed": 5})
    read("one", "three")
    assert "Evaluated with other settings: three; for the same: kljax analyze run=three step=6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("reference", "base", "a: got 'reference' beside b=base, expected a run in one of the two"),
        ("one", "one@6", "b: got 'one@6', which is a, too"),
        ("one", "onne", r"b: 'onne' is not a run directory .*Did you mean 'one'\? Expected a run"),
        ("refrence", "one", r"a: 'refrence' is not a run directory .*Did you mean 'reference'\?"),
        ("one@x", "one", "a: got 'one@x', expected the number of a step, latest or best"),
        ("one@best", "one", "a: got best, but one was not looked at"),
        ("no.jsonl", "one", r"a: 'no\.jsonl' is not a run directory .*a file of JSON Lines"),
        (".", "one", "It is a folder of runs; give one of them: "),
        ("a.jsonl", "reference", "b: got 'reference', the model of a run, but a is the file a.jsonl"),
        ("a.jsonl", "a.jsonl", "which is a, too"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(run, tmp_path, a, b, says):
    run("one")
    lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UserError, match=f"(?s){says}") as refused:
        sources.named(a, b)
    assert str(refused.value).endswith((".", "?", ")"))


def test_a_run_without_a_checkpoint_is_refused(write_run, tmp_path):
    lines(tmp_path / "a.jsonl", ROWS)
    write_run(tmp_path / "new", step="none")
    with pytest.raises(UserError, match=r"b: .*new has no checkpoint yet"):
        sources.named(str(tmp_path / "a.jsonl"), str(tmp_path / "new"))


def test_of_a_fit_it_is_the_model_that_it_kept_unless_a_step_is_given(run):
    """Whichever steps were looked at."""
    path = run("one", step=4)
    run("one", step=8)
    (path / "config.yaml").write_text(f"{KIND}: {FIT}\n" + (path / "config.yaml").read_text())
    for file in path.glob("evaluation/*.json"):
        values = json.loads(file.read_text())
        values["samples"] = [row | {"policy": f"{row['policy']} of step {values['step']}"} for row in values["samples"]]
        file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"a: one is a fit that is not finished"):
        sources.named("one", "reference")
    (path / "result.json").write_text("[]")
    with pytest.raises(UserError, match=r"a: .*result.json cannot be read"):
        sources.named("one", "reference")
    (path / "result.json").write_text(json.dumps({"best_step": 8}))
    for name, step in (("one", 8), ("one@best", 8), ("one@4", 4), ("one@8", 8)):
        a, _ = read(name, "reference")
        assert all(written.text.endswith(f"of step {step}") for written in a.texts.values()), name

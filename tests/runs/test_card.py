"""Model cards: what they say is what the run has, and nothing that a user has named breaks them."""

import json
from dataclasses import replace

import pytest
import yaml

from kljax.config import HuggingFaceModel, to_dict
from kljax.data.beginnings import Beginning
from kljax.runs import card
from kljax.runs.evaluation import settings_of
from kljax.runs.markdown import code, plain, table

BEGINS = Beginning(None, "<bos>", True, "changed")  # pyright: ignore
HOSTILE = "a|b`c``d\n---\n# e <script> *f* [g](h): {i}"


def front(text):
    """The YAML before the page, and the page."""
    _, values, page = text.split("---\n", 2)
    return yaml.safe_load(values), page


@pytest.fixture
def run(tiny, tmp_path):
    """run(metrics): a run directory with an evaluation of step 4."""
    config = tiny()

    def make(**metrics):
        of = {"samples": 2, "prompts": 16, "distinct_prompts": 16, "seed": 0, "top_k": 0, "top_p": 1.0}
        values = {
            "step": 4,
            "settings": settings_of(config.evaluation),
            "of": of,
            "metrics": metrics,
            "notes": ["of *weight* 0"],
        }
        (tmp_path / "evaluation").mkdir()
        (tmp_path / "evaluation" / "step_000004.json").write_text(json.dumps(values | {"by_prompt": [], "samples": []}))
        return tmp_path

    return config, make


def test_a_card_says_what_the_run_was_and_what_its_evaluation_found(run):
    config, make = run
    path = make(**{
        "reward/mean": 1.5, "reward/mean_se": 0.25, "reward/reference_mean": 0.5, "reward/reference_mean_se": 0.125,
        "kl/reverse_exact_seq": 4.31, "kl/reverse_exact_seq_se": 0.12, "kl/forward_exact_seq": 5.0,
        "kl/reverse_exact_tok": 0.2, "rollout/length": 8.0,
    })  # fmt: skip
    values, page = front(card.of_run(path, config, 4, 0.25, BEGINS))
    assert values == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "reinforcement-learning", "kl-regularization", "kljax"],
    }
    for said in (
        "- algorithm: `rloo`", "- penalty: `exact`, divergence `reverse_kl`", "at this step 0.25", "1 · `sentiment`",
        "step 4 of 6", "- temperature: 1,", "- seed: 0 ", "| reward | 1.5 ± 0.25 | 0.5 ± 0.12 |",
        "| KL(policy‖reference), nats per sequence | 4.31 ± 0.12 |", "2 completion(s) of each of 16 held-out prompts",
        r"Note: of \*weight\* 0", "untruncated policy at temperature 1", "began with `<bos>`",
    ):  # fmt: skip
        assert said in page, said


def test_a_step_without_an_evaluation_says_how_to_get_one(run):
    config, make = run
    assert "kljax analyze run=" in card.of_run(make(), config, 2, 0.5, BEGINS)


def test_names_of_anybody_are_code_and_no_markup(run):
    config, make = run
    path = make(**{f"reward/terms/{HOSTILE}": 1.0, "reward/terms/other": 2.0})
    term = config.reward["sentiment"]
    hostile = replace(config, reward={HOSTILE: replace(term, function=HOSTILE)})
    values, page = front(card.of_run(path, hostile, 4, 0.5, None, base=HOSTILE))
    assert values["base_model"] == HOSTILE
    assert (values["library_name"], values["base_model_relation"], values["tags"][-1]) == ("peft", "adapter", "lora")
    assert not [line for line in page.splitlines() if line.startswith(("# e", "---"))]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert code(HOSTILE) in page


@pytest.mark.parametrize(
    ("given", "made"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("a\n\nb", "`a b`"), ("", "` `"), ("```", "```` ``` ````")],
)
def test_a_code_span_is_ended_by_nothing_inside(given, made):
    assert code(given) == made


def test_plain_text_is_no_markup():
    assert plain("*a* <b>\n`c` [d](e) #f") == r"\*a\* \<b\> \`c\` \[d\](e) \#f"
    assert table([["a", "b"], ["x|y", "z"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | z |"


@pytest.mark.parametrize(("path", "known"), [("org/name", True), ("gpt2", True), ("/models/x", False), ("./x", False)])
def test_the_base_model_is_named_where_it_is_one_of_the_hub(tiny, path, known):
    config = tiny()
    shared = {key: to_dict(config.model)[key] for key in ("context", "dropout", "dtype", "param_dtype", "remat", "logit_chunk")}
    model = HuggingFaceModel(kind="huggingface", path=path, vocab_chunk=None, **shared)
    values, page = front(card.of_fit(replace(config, model=model), "decoder", {"steps": 3, "labels": ["x"]}, BEGINS))
    assert values.get("base_model") == (path if known else None)
    assert f"started from: {code(path)}" in page and "- `steps`: 3" in page


@pytest.mark.parametrize(("kind", "task"), [("classifier", "text-classification"), ("masked_lm", "fill-mask")])
def test_what_reads_texts_says_so(tiny, kind, task):
    values, page = front(card.of_fit(tiny(), kind, {"held_out_f1": 0.5}, None))
    assert values["pipeline_tag"] == task
    assert f'pipeline("{task}", model="DIR")' in page and "`held_out_f1`: 0.5" in page


def test_a_fits_intervals_are_in_its_card_with_what_they_are_of(tiny):
    _, page = front(card.of_fit(tiny(), "classifier", {"test/f1": 0.5, "test/f1_interval": [0.4, 0.625]}, None))
    assert "- `test/f1`: 0.5 [0.4, 0.625]" in page and "bootstrap over rows" in page
    assert "bootstrap" not in front(card.of_fit(tiny(), "classifier", {"test/f1": 0.5}, None))[1]


def test_a_cut_evaluation_is_not_called_untruncated(run):
    config, make = run
    path = make(**{"kl/reverse_exact_seq": 4.31})
    file = path / "evaluation" / "step_000004.json"
    there = json.loads(file.read_text())
    there["of"] |= {"top_k": 5, "top_p": 0.9}
    file.write_text(json.dumps(there))
    _, page = front(card.of_run(path, config, 4, 0.25, BEGINS))
    assert "seed 0, top_k 5, top_p 0.9." in page and "cut by top_k 5 and top_p 0.9 and renormalised" in page
    assert "untruncated" not in page


def test_a_folder_of_this_machine_is_no_name_on_the_hub(run):
    config, make = run
    values, page = front(card.of_run(make(), config, 4, 0.25, None, base="/home/me/model"))
    assert "base_model" not in values and values["library_name"] == "peft"
    assert "`/home/me/model`" in page

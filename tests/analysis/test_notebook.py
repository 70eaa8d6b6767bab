"""What a notebook has of a run and of a model: against the run's own evaluation, whole logits, and another way to the same."""

import re
import shutil
import string
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import kljax
from kljax.analysis import colours, comparison, opened, policies
from kljax.analysis.completions import pieces
from kljax.analysis.prompting import Prompting, listed
from kljax.command_line import compose
from kljax.config import BpeTokenizer, ChatPrompt, Config, MeshConfig
from kljax.data import tokenizers
from kljax.devices.state import decoder_architecture
from kljax.kl import oracle
from kljax.models.decoder import causal_mask, positions_of
from kljax.models.huggingface import models as huggingface
from kljax.models.sampling import sample_jit
from kljax.runs import evaluation, evaluation_files
from kljax.runs.restore import restore
from kljax.training.loop import train

ROOT = Path(__file__).parents[2]
ONE = MeshConfig(data=1, fsdp=1, tensor=1)
PROMPTS = ["the movie was", "a film"]


@pytest.fixture(scope="module")
def path(tiny_in, tmp_path_factory):
    """A run that has come some way, sampled at a temperature of its own, and evaluated."""
    overrides = [
        "optimizer.learning_rate=0.01",
        "rollout.temperature=0.8",
        "pretrain.steps=80",
        "pretrain.optimizer.learning_rate=0.02",
    ]
    config = compose([*tiny_in(tmp_path_factory.mktemp("notebook")), *overrides], Config)
    path = train(config)
    evaluation_files.save_own(evaluation.evaluate(restore(path, "latest", ONE), config.evaluation), path)
    return path


@pytest.fixture(scope="module")
def run(path):
    return kljax.load_run(path)


@pytest.fixture(scope="module")
def policy(run):
    return run.policy()


@pytest.fixture(scope="module")
def reference(run):
    return run.reference()


@pytest.fixture(scope="module")
def sampled(policy):
    return policy.sample(PROMPTS, samples=3, seed=1)


@pytest.fixture(scope="module")
def compared(policy, reference, sampled):
    return kljax.compare(policy, reference, sampled)


def whole_logits(model, rollout):
    """Of every completion state, in one pass without cache or chunks, [B, T, V]."""
    mask = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    decoder = nnx.merge(model.architecture.graphdef, model.params)
    hidden, _ = decoder(rollout.tokens, positions_of(mask), causal_mask(mask))
    before = rollout.prompt_mask.shape[1] - 1
    return np.asarray(decoder.logits(hidden), np.float64)[:, before:-1]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_run_is_as_its_files_have_it(run, path):
    assert run.config.rollout.temperature == 0.8
    assert run.steps == [2, 4, 6]
    assert list(run.metrics.index) == list(range(6))
    assert run.metrics["kl/beta"].tolist() == [0.5] * 6
    assert "finished at step 6 of 6" in repr(run)
    assert run.policy(step=4).name == f"{path}@4"


def test_the_object_says_how_it_is_prompted_and_samples(policy, sampled):
    assert "text after the beginning token <bos>" in repr(policy)
    assert "temperature 0.8" in repr(policy) and "<eos>, or after 8 tokens" in repr(policy)
    assert "at temperature 0.8 with seed 1" in repr(sampled)
    assert len(sampled) == 6 and sampled.prompts[:3] == ["the movie was"] * 3


def test_the_kl_of_its_evaluation_comes_out_of_its_completions(run, policy, reference):
    """Of both directions, each on samples of its own; per sequence, per token, standard errors."""
    own = run.evaluations.iloc[0]
    for direction, model in (("reverse", "policy"), ("forward", "reference")):
        completions = run.evaluation_completions(of=model)
        found = kljax.compare(policy, reference, completions, divergence=f"{direction}_kl")
        assert found.is_sequence_kl
        for name, estimate in (("seq", found.per_sequence), ("tok", found.per_token)):
            assert estimate.mean == pytest.approx(own[f"kl/{direction}_exact_{name}"], rel=1e-5)
            assert estimate.se == pytest.approx(own[f"kl/{direction}_exact_{name}_se"], rel=1e-5)


def test_tokens_sum_to_sequences(compared):
    frame, label = compared.frame(), compared.divergence.label
    sequences, prompts = compared.by_sequence(), compared.by_prompt()
    sums = frame.groupby("completion")[[f"{label}_tok", "log_ratio", "logp"]].sum()
    np.testing.assert_allclose(sums[f"{label}_tok"], sequences[f"{label}_seq"], rtol=1e-5)
    np.testing.assert_allclose(sums["log_ratio"], sequences["reverse_k1_seq"], rtol=1e-5)
    np.testing.assert_allclose(sums["logp"], sequences["logp"], rtol=1e-5)
    assert compared.per_sequence.mean == pytest.approx(sequences[f"{label}_seq"].mean(), rel=1e-6)
    positions = compared.by_position()
    totals = (positions[f"{label}_tok"] * positions["completions"]).sum()
    assert totals == pytest.approx(sequences[f"{label}_seq"].sum(), rel=1e-6)
    assert prompts["prompt"].tolist() == PROMPTS and prompts["completions"].tolist() == [3, 3]
    assert compared.per_sequence.mean > 0.01


@pytest.mark.parametrize("temperature", [0.8, 1.7])
def test_figures_are_those_of_whole_logits(policy, reference, sampled, temperature):
    found = kljax.compare(policy, reference, sampled, divergence="renyi", alpha=0.5, temperature=temperature)
    logp, ref_logp = (log_softmax(whole_logits(m, sampled.rollout) / temperature) for m in (policy, reference))
    mask = np.asarray(sampled.rollout.mask)
    exact = {
        "divergence": -2 * np.log(np.exp(0.5 * logp + 0.5 * ref_logp).sum(axis=-1)),
        "reverse_kl": oracle.kl(logp, ref_logp),
        "forward_kl": oracle.kl(ref_logp, logp),
        "entropy": -(np.exp(logp) * logp).sum(axis=-1),
        "logp": np.take_along_axis(logp, np.asarray(sampled.rollout.completion)[..., None], axis=-1)[..., 0],
    }
    for name, values in exact.items():
        np.testing.assert_allclose(getattr(found.scores, name)[mask], values[mask], atol=2e-5, err_msg=name)
    assert found.divergence.label == "renyi(alpha=0.5)_exact"
    assert not found.is_sequence_kl


def test_a_reference_of_another_architecture(policy, sampled):
    config = nnx.merge(policy.architecture.graphdef, policy.params).config
    vocab_size = policy.params["embed"]["embedding"].shape[0]
    wider = replace(config, layers=2, d_model=24, d_mlp=40, heads=3, kv_heads=3)
    architecture = decoder_architecture(wider, vocab_size, policy.architecture.mesh)
    other = replace(policy, name="another", architecture=architecture, params=architecture.init(3))
    found = kljax.compare(policy, other, sampled, divergence="forward_kl")
    logp, ref_logp = (log_softmax(whole_logits(model, sampled.rollout) / 0.8) for model in (policy, other))
    np.testing.assert_allclose(found.values[found.mask], oracle.kl(ref_logp, logp)[found.mask], atol=2e-5)


def test_numbers_as_frames_have_them(run):
    steps = run.metrics.index
    assert run.policy(steps[4]).name == run.policy(4).name
    assert [type(policies.plain(x)) for x in (np.int64(2), np.float32(0.5), 3)] == [int, float, int]


def test_a_seed_gives_the_same_completions_whatever_comes_after_a_prompt(policy, sampled):
    again, alone, other = (policy.sample(p, samples=3, seed=s) for p, s in ((PROMPTS, 1), (PROMPTS[0], 1), (PROMPTS[0], 2)))
    assert again.texts == sampled.texts and alone.texts == sampled.texts[:3]
    assert other.texts != alone.texts


def test_a_second_call_compiles_nothing(policy, reference, sampled):
    kljax.compare(policy, reference, sampled)
    sizes = sample_jit._cache_size(), comparison._scores._cache_size()
    more = policy.sample([f"{text} very" for text in PROMPTS], samples=3, seed=7)
    kljax.compare(policy, reference, more)
    reference.sample(PROMPTS, samples=3, seed=7)  # the same architecture is the same program
    assert (sample_jit._cache_size(), comparison._scores._cache_size()) == sizes


def test_many_prompts_go_through_in_several_batches(policy, reference, monkeypatch):
    many = [*PROMPTS, "the plot", "the acting was", "a story"]
    whole = kljax.compare(policy, reference, policy.score(many, ["was great ."] * 5))
    monkeypatch.setattr(policies, "ROWS", 2)
    parts = kljax.compare(policy, reference, policy.score(many, ["was great ."] * 5))
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-6)
    assert len(policy.sample(many, samples=2)) == 10


def test_given_completions_are_scored_as_sampled_ones_are(policy, sampled):
    texts = [text.strip() for text in sampled.texts]
    ended = [policy.sampler.eos_ids[0] == row[-1] for row in sampled.token_ids]
    assert any(ended)
    for i in np.flatnonzero(ended):
        found = policy.score(sampled.prompts[i], texts[i], ends=True)
        assert found.token_ids[0] == sampled.token_ids[i]
        np.testing.assert_allclose(found.logp[0], sampled.logp[i], atol=1e-5)
        assert found.drawn is None


def test_ones_own_sentence_is_scored_from_the_beginning_token_on(policy, reference):
    found = kljax.compare(policy, reference, "the movie was great")
    assert found.of.tokens[0][0] == "the" and len(found.frame()) == 4
    assert np.isnan(found.per_sequence.se) and "nan" not in repr(found)
    assert "given completions" in repr(found)
    with pytest.raises(kljax.UserError, match="completion 0 is empty"):
        kljax.compare(policy, reference, "")


def test_a_model_compared_with_itself_has_no_kl(policy, sampled):
    assert abs(kljax.compare(policy, policy, sampled).values).max() < 1e-6


def test_whose_samples_make_a_sequence_kl(policy, reference, sampled):
    assert kljax.compare(policy, reference, sampled).is_sequence_kl
    assert not kljax.compare(policy, reference, sampled, divergence="forward_kl").is_sequence_kl
    assert not kljax.compare(reference, policy, sampled).is_sequence_kl
    assert kljax.compare(reference, policy, sampled, divergence="forward_kl").is_sequence_kl
    assert not kljax.compare(policy, reference, sampled, temperature=1.0).is_sequence_kl
    greedy = policy.sample(PROMPTS, temperature=0.0)
    assert not kljax.compare(policy, reference, greedy).is_sequence_kl
    cut = policy.sample(PROMPTS, top_k=2)
    of_cut = kljax.compare(policy, reference, cut)
    assert of_cut.is_sequence_kl and "as top_k and top_p cut it" in repr(of_cut)
    logits, theirs = (whole_logits(model, cut.rollout) / 0.8 for model in (policy, reference))
    kept = np.where(logits >= np.sort(logits, axis=-1)[..., -2:-1], logits, -np.inf)
    expected = oracle.kl(log_softmax(kept), log_softmax(theirs))
    np.testing.assert_allclose(of_cut.values[of_cut.mask], expected[of_cut.mask], atol=2e-5)
    by_other = kljax.compare(reference, policy, cut)  # pi did not draw these, and is whole
    np.testing.assert_allclose(by_other.values[cut_mask := by_other.mask], by_other.scores.reverse_kl[cut_mask], atol=1e-6)
    turned = kljax.compare(reference, policy, cut, divergence="forward_kl")  # rho did, and is cut
    np.testing.assert_allclose(turned.values, of_cut.values, atol=1e-5)
    assert turned.is_sequence_kl and not by_other.is_sequence_kl


def test_whose_samples_they_are_is_known_by_the_model_not_by_its_name(policy, reference, sampled):
    renamed = replace(policy, name="the same, from elsewhere")
    assert kljax.compare(renamed, reference, sampled).is_sequence_kl
    posing = replace(reference, name=policy.name)
    assert not kljax.compare(posing, policy, sampled).is_sequence_kl
    shown = repr(kljax.compare(policy, posing, sampled))
    assert f"{policy.name} [{policy.identity}]" in shown and f"{policy.name} [{posing.identity}]" in shown


def test_the_printed_interval_is_that_of_the_tables(policy, reference, sampled, compared):
    wide, label = compared.per_sequence, compared.divergence.label
    assert f"{label}_seq {wide.mean:.4g} ± {wide.half_width:.2g} nats" in repr(compared)
    assert "± is a 95% interval over 2 distinct prompts" in repr(compared)
    assert "±" not in repr(kljax.compare(policy, reference, ["the movie", "a film"]))  # texts that somebody has chosen
    assert float(wide) == wide.mean


def test_a_position_of_one_prompt_alone_has_no_error(policy, reference):
    found = kljax.compare(
        policy, reference, policy.score(["a film", "the movie"], ["was great and funny", "was"])
    ).by_position()
    label = "reverse_exact_tok_se"
    assert np.isfinite(found[label][0]) and np.isnan(found[label][1:]).all()


def test_an_exported_model_says_the_same(policy, reference, sampled, tmp_path):
    out, config = tmp_path / "exported", nnx.merge(policy.architecture.graphdef, policy.params).config
    vocab_size = policy.params["embed"]["embedding"].shape[0]
    huggingface.save(out, "decoder", config, vocab_size, policy.params, policy.tokenizer, "float32")
    loaded = kljax.load_model(out, temperature=0.8)
    assert abs(kljax.compare(policy, loaded, sampled).values).max() < 1e-6
    assert loaded.sample(PROMPTS, samples=3, seed=1, max_new_tokens=8).texts == sampled.texts
    bare = kljax.load_model(out, begins=False)
    assert bare.prompting.encode(["the movie"])[0] == loaded.prompting.encode(["the movie"])[0][1:]
    with pytest.raises(kljax.UserError, match="empty text"):
        bare.sample("")


def test_a_step_of_a_run_is_a_model_too(run, path):
    loaded, own = kljax.load_model(f"{path}@4"), run.policy(4)
    assert loaded.name == own.name
    jax.tree.map(np.testing.assert_array_equal, loaded.params, own.params)
    assert (loaded.temperature, loaded.sampler.max_new_tokens) == (0.8, 8)
    changed = kljax.load_model(f"{path}@4", temperature=0.5, max_new_tokens=3)
    assert (changed.temperature, changed.sampler.max_new_tokens) == (0.5, 3)
    for named in ({"dtype": "bfloat16"}, {"begins": False}, {"context": 8}, {"revision": "x"}):
        with pytest.raises(kljax.UserError, match="run"):
            kljax.load_model(f"{path}@4", **named)


def test_the_coloured_tokens(compared):
    view = compared.by_token()
    html, text = view._repr_html_(), repr(view)
    assert html.count("<ruby") == int(compared.mask.sum()) == sum(map(len, view.tokens))
    assert "&lt;eos&gt;" in html and "<eos>" not in html
    assert " great" in html or " " in view.tokens[0][0]
    first = f"{compared.values[0, 0]:.2f}"
    assert first in html and first in text
    assert compared.by_token("log_ratio").values[0][0] == compared.log_ratio[0, 0]
    assert max(map(len, text.splitlines())) <= 200


def test_what_is_invisible_in_a_token_is_shown():
    assert colours.visible("a\n\x1b[31m\u202e\u200b") == "a⏎\\u001b[31m\\u202e\\u200b"
    assert colours.visible("") == "·"


def test_a_broken_line_of_metrics_is_said(path, tmp_path):
    shutil.copytree(path, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], "{bad\n", *lines[2:], '{"half']))  # the last one is of a run that is being written
    with pytest.raises(kljax.UserError, match=r"line 3 of .* cannot be read"):
        _ = kljax.load_run(tmp_path / "run").metrics
    file.write_text("".join([*lines, '{"half']))
    opened_run = kljax.load_run(tmp_path / "run")
    assert len(opened_run.metrics) == 6
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(kljax.UserError, match="is not a run directory"):
        _ = opened_run.metrics


def test_completions_read_as_text(sampled):
    for tokens, text in zip(sampled.tokens, sampled.texts, strict=True):
        assert "".join(token for token in tokens if not token.startswith("<")) == text


@given(text=st.text(st.sampled_from([*string.ascii_letters, " ", "é", "€", "𝄞", "\n", "字"]), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_pieces_of_bytes_make_the_text(text, byte_tokenizer):
    ids = tokenizers.encode(byte_tokenizer, [text])[0]
    for cut in (0, len(ids) // 2):
        whole = tokenizers.decode(byte_tokenizer, [ids, ids[:cut]])
        if "\N{REPLACEMENT CHARACTER}" not in whole[1]:
            assert "".join(pieces(byte_tokenizer, ids[:cut], ids[cut:])) == whole[0][len(whole[1]) :]


@pytest.fixture(scope="module")
def byte_tokenizer():
    return tokenizers.build(BpeTokenizer(kind="bpe", vocab_size=270), ["some text of words"])


TEMPLATE = "{% for m in messages %}<u>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"


def test_prompts_go_through_a_chat_template_where_they_did(byte_tokenizer):
    byte_tokenizer.chat_template = TEMPLATE
    chat = ChatPrompt(kind="chat", system=None, message="Say: {text}", words=1, max_tokens=99)
    of_run, plain = Prompting(byte_tokenizer, chat), Prompting(byte_tokenizer)

    def texts(prompting, prompts):
        return tokenizers.decode(byte_tokenizer, prompting.encode(prompts))

    conversation = [{"role": "user", "content": "one two"}]
    assert texts(of_run, ["one two"]) == ["<u>Say: one two<a>"]  # whole, whatever part of the data's texts the run took
    assert texts(of_run, [conversation]) == texts(plain, [conversation]) == ["<u>one two<a>"]
    assert texts(plain, ["one two"]) == ["one two"]
    assert plain.encode(["one"])[0][0] == byte_tokenizer.bos_token_id
    assert "'Say: {text}'" in str(of_run) and "a conversation in the tokenizer's chat template" in str(plain)


def wide(text):
    return " ".join([text] * 70)


WRONG = {
    "64 at most in all": lambda p, r, s: kljax.compare(p, r, wide("great")),
    "context of narrow": lambda p, r, s: kljax.compare(p, replace(r, name="narrow", context=5), s),
    "policy: got 3, expected a Policy": lambda p, r, s: kljax.compare.__wrapped__(3, r, s),
    r"of: got \('a film'": lambda p, r, s: kljax.compare.__wrapped__(p, r, ("a film", "was")),
    r"policy.score\(prompts": lambda p, r, s: kljax.compare(p, r, s, prompts=2.0),
    "of: got a list of Completions": lambda p, r, s: kljax.compare.__wrapped__(p, r, [s]),
    "prompts: got one message": lambda p, r, s: listed.__wrapped__({"role": "user", "content": "x"}),
    "prompts: got a DataFrame": lambda p, r, s: listed.__wrapped__(pd.DataFrame({"text": ["a film"]})),
    "prompts: got a set": lambda p, r, s: listed.__wrapped__({"a film"}),
    "temperature: got 1e-40": lambda p, r, s: p.sample("a film", temperature=1e-40),
    "temperature: got 0.0, expected a number > 0": lambda p, r, s: p.score("a film", "was", temperature=0.0),
    "holds the special token <pad>": lambda p, r, s: p.score("a film", "was <pad>"),
    "prompts: got none": lambda p, r, s: p.sample([]),
    "prompts: got texts beside": lambda p, r, s: p.sample(["a film", [{"role": "user", "content": "x"}]]),
    "has no chat template": lambda p, r, s: p.sample([{"role": "user", "content": "x"}]),
    "zebra": lambda p, r, s: p.sample("zebra"),
    "samples: got 0": lambda p, r, s: p.sample("a film", samples=0),
    "seed: got -1": lambda p, r, s: p.sample("a film", seed=-1),
    "temperature: got -1": lambda p, r, s: p.sample("a film", temperature=-1.0),
    "max_new_tokens: got 0": lambda p, r, s: p.sample("a film", max_new_tokens=0),
    "64 at most": lambda p, r, s: p.sample("a film", max_new_tokens=63),
    "completions: got 3 for 2 prompts": lambda p, r, s: p.score(["a film"] * 2, ["was"] * 3),
    "Did you mean 'reverse_kl'": lambda p, r, s: kljax.compare(p, r, s, divergence="revers_kl"),
    "alpha: the divergence renyi needs it": lambda p, r, s: kljax.compare(p, r, s, divergence="renyi"),
    "mix: the divergence renyi has no such": lambda p, r, s: kljax.compare(p, r, s, divergence="renyi", mix=0.5),
    "alpha: got -1.0": lambda p, r, s: kljax.compare(p, r, s, divergence="renyi", alpha=-1.0),
    "temperature: got 0": lambda p, r, s: kljax.compare(p, r, s, temperature=0.0),
    "of: got 'ratio'": lambda p, r, s: kljax.compare(p, r, s).by_token("ratio"),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_is_one_sentence(said, policy, reference, sampled):
    with pytest.raises(kljax.UserError, match=said):
        WRONG[said](policy, reference, sampled)


def test_a_model_of_another_tokenizer_is_refused(policy, reference, sampled, byte_tokenizer):
    other = replace(reference, prompting=Prompting(byte_tokenizer))
    with pytest.raises(kljax.UserError, match="have different tokenizers"):
        kljax.compare(policy, other, sampled)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/analyse.md"])
def test_the_lines_of_a_page(page, path, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    begins = next(i for i, block in enumerate(blocks) if block.startswith("import kljax"))
    lines = "".join(blocks[begins:]).replace("step=60", "step=4").replace("samples=64", "samples=4")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "grammar").mkdir()
    (tmp_path / "runs" / "grammar" / "default").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    exec(lines, {})


def test_what_is_no_run_is_refused(path, run):
    with pytest.raises(kljax.UserError, match="it has: 2, 4, 6"):
        run.policy(5)
    with pytest.raises(kljax.UserError, match="is not a run directory"):
        kljax.load_run(path.parent)
    for step in (4.0, "4", [4]):
        with pytest.raises(kljax.UserError, match="expected the number of a step, latest or best"):
            opened._checked(step)
    with pytest.raises(kljax.UserError, match=r"load_run\('.*'\).policy\(4\)"):
        kljax.load_run(f"{path}@4")
    with pytest.raises(kljax.UserError, match="of: got 'base'"):
        run.evaluation_completions(of="base")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kljax.nothing
    assert {"load_run", "compare"} <= {*dir(kljax)}

"""Fitted models as rewards: on tokens and on text the same number, passed as arguments, refused where they do not fit."""

import copy
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as backend
from flax import nnx

from kljax.config import BpeTokenizer, EncoderConfig, RewardTerm, WordTokenizer
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.models.classifier import Classifier
from kljax.models.huggingface import models as huggingface
from kljax.rewards import model as model_rewards
from kljax.rewards.combination import build
from kljax.types import Rollout

WORDS = ["a", "film", "of", "warm", "and", "cold", "and", "long", "short", "words"]
ENCODER = EncoderConfig(
    kind="encoder", layers=1, d_model=16, d_mlp=24, heads=2, context=16, first_position=0, segments=2, head="tanh",
    norm_eps=1e-6, dropout=0.0, dtype="float32", param_dtype="float32", remat="none", logit_chunk=8,
)  # fmt: skip
CLASSES = ("cold", "mild", "warm")
PROMPTS = ["a film", "words of", "a"]
COMPLETIONS = ["warm and long", "cold", "short film of words"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.build(WordTokenizer(kind="words"), [" ".join(WORDS)])


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A scorer and a classifier of three classes, as Hugging Face directories, with weights large enough to matter."""
    made = {}
    for name, labels in (("scorer", ("score",)), ("classes", CLASSES)):
        network = Classifier(ENCODER, len(tokenizer), len(labels), rngs=nnx.Rngs(7))
        params = jax.tree.map(lambda p: 10 * p + 0.1, nnx.to_pure_dict(nnx.state(network)))
        made[name] = tmp_path_factory.mktemp("models") / name
        huggingface.save(
            made[name], "classifier", ENCODER, len(tokenizer), params, tokenizers.with_ends(tokenizer), "float32", labels
        )
    return made


@pytest.fixture(scope="module")
def rollout(tokenizer):
    """The texts as the policy would have written them: prompts padded on the left, completions on the right."""
    prompts, completions = (tokenizers.encode(tokenizer, texts) for texts in (PROMPTS, COMPLETIONS))
    tokens, prompt_mask, mask = np.full((3, 9), 5), np.zeros((3, 4), bool), np.zeros((3, 5), bool)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        prompt, completion = [tokenizer.bos_token_id, *prompt], [*completion, tokenizer.eos_token_id]
        tokens[i, 4 - len(prompt) : 4], prompt_mask[i, 4 - len(prompt) :] = prompt, True
        tokens[i, 4 : 4 + len(completion)], mask[i, : len(completion)] = completion, True
    return Rollout(jnp.asarray(tokens), jnp.asarray(prompt_mask), jnp.asarray(mask), jnp.zeros((3, 5)))


def term(kind, **arguments):
    return RewardTerm(kind=kind, function="model", weight=1.0, arguments=arguments)


@pytest.mark.parametrize("of", ["whole", "completion"])
@pytest.mark.parametrize(("name", "label", "scale"), [("scorer", None, "log_odds"), ("classes", "warm", "probability")])
def test_tokens_and_text_give_the_same_reward(folders, tokenizer, rollout, name, label, scale, of):
    arguments = {"path": str(folders[name]), "label": label, "scale": scale, "of": of}
    on_tokens = build({"rm": term("jax", **arguments)}, tokenizer)
    on_text = build({"rm": term("python", **arguments, length=12)}, tokenizer)
    prompts = [f"{prompt} " for prompt in PROMPTS]
    expected = on_text.host(prompts, COMPLETIONS, {"text": PROMPTS})["rm"]
    np.testing.assert_allclose(on_tokens.device(on_tokens.params, rollout)["rm"], expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.01


def by_hand(folder, tokens):
    fitted = model_rewards.load(str(folder), None, "log_odds")
    return [float(fitted.score(fitted.params, jnp.array([row]), jnp.ones((1, len(row)), bool))[0]) for row in tokens]


@pytest.mark.parametrize(("ends", "wrap"), [("own", [[], [2]]), ("both", [[1], [2]]), ("none", [[], []])])
def test_what_stands_around_a_text_is_the_reward_models_to_say(folders, tokenizer, tmp_path, ends, wrap):
    """A tokenizer of somebody else's, which ends a text and does not begin it."""
    other = copy.deepcopy(tokenizer)
    end = [("<eos>", 2)]
    other.backend_tokenizer.post_processor = backend.processors.TemplateProcessing(single="$A <eos>", special_tokens=end)
    shutil.copytree(folders["scorer"], tmp_path / "rm")
    other.save_pretrained(tmp_path / "rm")
    texts = [tokenizers.encode(tokenizer, [text])[0] for text in COMPLETIONS]
    scores = model_rewards.on_text([""] * 3, COMPLETIONS, path=str(tmp_path / "rm"), of="completion", ends=ends)
    expected = by_hand(tmp_path / "rm", [[*wrap[0], *text, *wrap[1]] for text in texts])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    model_rewards.load(str(tmp_path / "rm"), None, "log_odds").tokenizer.truncation_side = "left"
    cut = model_rewards.on_text([""], COMPLETIONS[:1], path=str(tmp_path / "rm"), of="completion", ends="none", length=3)
    np.testing.assert_allclose(cut, by_hand(tmp_path / "rm", [texts[0][-3:]]), rtol=1e-4, atol=1e-5)


def test_a_conversation_goes_through_the_reward_models_template(folders, tokenizer, tmp_path):
    shutil.copytree(folders["scorer"], tmp_path / "rm")
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    answers = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    with pytest.raises(UserError, match=r"arguments\.path: the prompts are conversations, and the tokenizer in .* has no chat"):
        model_rewards.on_text(asked, answers, path=str(tmp_path / "rm"))
    templated = tokenizers.with_ends(tokenizer)
    templated.chat_template = "{% for m in messages %}<bos> {{ m.content }} <eos> {% endfor %}"
    templated.save_pretrained(tmp_path / "rm")
    model_rewards.load.cache_clear()
    rows = [tokenizers.encode(tokenizer, [p, c]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = by_hand(tmp_path / "rm", [[1, *p, 2, 1, *c, 2] for p, c in rows])
    scores = model_rewards.on_text(asked, answers, path=str(tmp_path / "rm"))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_somebody_elses_scorer_says_what_transformers_says(tmp_path, wrapped):
    """GPT-2, whose tokenizer puts nothing around a text; or an end token that is its padding token, where no score is read."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    bpe = tokenizers.build(BpeTokenizer(kind="bpe", vocab_size=300), [" ".join(WORDS)])
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=32, n_embd=16, n_layer=1, n_head=2, num_labels=1, pad_token_id=0
    )
    theirs = transformers.GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.3)
    if wrapped:
        bpe.pad_token, bpe = "<eos>", tokenizers.with_ends(bpe)
        theirs.config.pad_token_id = bpe.eos_token_id
    theirs.save_pretrained(tmp_path)
    bpe.save_pretrained(tmp_path)
    texts = ["a b", "c d e f", "naïve"]
    expected = [theirs(**bpe(text, return_tensors="pt")).logits.item() for text in texts]
    np.testing.assert_allclose(model_rewards.on_text([""] * 3, texts, path=str(tmp_path)), expected, rtol=1e-4, atol=1e-5)


def test_the_log_odds_of_a_class_are_those_of_its_probability(folders):
    fitted = [model_rewards.load(str(folders["classes"]), "mild", scale) for scale in ("log_odds", "probability")]
    tokens, mask = jnp.array([[1, 5, 6, 2], [1, 7, 3, 2]]), jnp.ones((2, 4), bool)
    log_odds, probability = (f.score(f.params, tokens, mask) for f in fitted)
    np.testing.assert_allclose(log_odds, np.log(probability) - np.log1p(-probability), rtol=1e-4)


@pytest.fixture
def as_problem(folders, tmp_path):
    """as_problem(problem): the classifier as a directory whose config.json says that its outputs are of this kind."""

    def make(problem):
        path = Path(shutil.copytree(folders["classes"], tmp_path / problem))
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(values | {"problem_type": problem}))
        return str(path)

    return make


def test_outputs_are_read_as_their_problem_type_says(folders, as_problem):
    """Labels of which any number is right: each has odds of its own. Several scores: each is itself."""
    tokens, mask = jnp.array([[1, 5, 6, 2], [1, 7, 3, 2]]), jnp.ones((2, 4), bool)

    def scores(path, scale):
        fitted = model_rewards.load(path, "mild", scale)
        return np.asarray(fitted.score(fitted.params, tokens, mask))

    exclusive = scores(str(folders["classes"]), "log_odds")
    many, several = as_problem("multi_label_classification"), as_problem("regression")
    logit = scores(many, "log_odds")
    assert np.abs(logit - exclusive).max() > 0.1
    np.testing.assert_allclose(scores(many, "probability"), 1 / (1 + np.exp(-logit)), rtol=1e-5)
    np.testing.assert_array_equal(scores(several, "log_odds"), logit)
    with pytest.raises(UserError, match=r"^arguments.scale: got probability, but .* gives scores, no classes; leave it out"):
        model_rewards.load(several, "mild", "probability")
    with pytest.raises(
        UserError, match=r"^arguments.label: got None, expected one of the scores that .* gives: cold, mild, warm"
    ):
        model_rewards.load(several, None, "log_odds")


def test_parameters_are_an_argument_of_the_step(folders, tokenizer, rollout):
    reward = build({"rm": term("jax", path=str(folders["scorer"]))}, tokenizer)
    text = jax.jit(reward.device).lower(reward.params, rollout).as_text()
    rows, width = reward.params["rm"]["body"]["embed"]["embedding"].shape
    assert f"tensor<{rows}x{width}xf32>" in text
    assert not [line for line in text.splitlines() if "stablehlo.constant" in line and f"tensor<{rows}x{width}xf32>" in line]
    zeros = {"rm": jax.tree.map(jnp.zeros_like, reward.params["rm"])}
    np.testing.assert_array_equal(reward.device(zeros, rollout)["rm"], 0.0)


def test_a_fit_directory_will_do(folders, tmp_path):
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "huggingface").symlink_to(folders["scorer"])
    assert model_rewards.load(str(tmp_path / "fit"), None, "log_odds").path.name == "huggingface"


MISTAKES = {
    "another tokenizer": (
        "jax", "scorer", {}, r"reward.rm.arguments.path: the reward model in .* was trained with another tokenizer \(\d+ tokens"
    ),
    "a label without classes": ("jax", "scorer", {"label": "warm"}, r"rm.arguments.label: got 'warm', but .* no classes"),
    "no label": ("python", "classes", {}, r"reward.rm.arguments.label: got None, expected one of .*: cold, mild, warm\."),
    "a wrong label": ("python", "classes", {"label": "warn"}, r"got 'warn', expected one of .* Did you mean 'warm'\?"),
    "a wrong scale": ("python", "classes", {"label": "warm", "scale": "odds"}, r"arguments.scale: got 'odds'"),
    "a probability of a score": ("python", "scorer", {"scale": "probability"}, r"scale: got probability, but .* gives scores"),
    "a wrong scale of a score": ("jax", "scorer", {"scale": "odds"}, r"arguments.scale: got 'odds'"),
    "a wrong text": ("python", "scorer", {"of": "prompt"}, r"reward.rm.arguments.of: got 'prompt', expected whole"),
    "no tokens": ("python", "scorer", {"length": 1}, r"reward.rm.arguments.length: got 1, expected a number of tokens >= 3"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_said_before_anything_compiles(folders, mistake):
    kind, name, arguments, sentence = MISTAKES[mistake]
    other = tokenizers.build(WordTokenizer(kind="words"), ["other words than those"])
    with pytest.raises(UserError, match=sentence):
        build({"rm": term(kind, path=str(folders[name]), **arguments)}, other)


def test_a_missing_folder_is_said(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"^reward.rm.arguments.path: "):
        build({"rm": term("python", path=str(tmp_path / "nowhere"))}, tokenizer)


def test_longer_texts_than_the_model_reads_are_refused_on_tokens(folders, tokenizer, rollout):
    reward = build({"rm": term("jax", path=str(folders["scorer"]))}, tokenizer)
    long = jax.tree.map(lambda x: jnp.concatenate([x, x, x], axis=1), rollout)
    with pytest.raises(UserError, match="expected at most the 16 that the reward model in"):
        jax.eval_shape(reward.device, reward.params, long)

"""Fitted models as rewards: on tokens and on text the same number, passed as arguments, refused where they do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kljax.config import EncoderConfig, RewardTerm, WordTokenizer
from kljax.data import tokenizers
from kljax.errors import UserError
from kljax.models import huggingface
from kljax.models.classifier import Classifier
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
        huggingface.save(made[name], "classifier", ENCODER, len(tokenizer), params, tokenizer, "float32", labels)
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


def test_the_log_odds_of_a_class_are_those_of_its_probability(folders):
    fitted = [model_rewards.load(str(folders["classes"]), "mild", scale) for scale in ("log_odds", "probability")]
    tokens, mask = jnp.array([[1, 5, 6, 2], [1, 7, 3, 2]]), jnp.ones((2, 4), bool)
    log_odds, probability = (f.score(f.params, tokens, mask) for f in fitted)
    np.testing.assert_allclose(log_odds, np.log(probability) - np.log1p(-probability), rtol=1e-4)


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

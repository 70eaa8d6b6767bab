"""The table of TRL's keys: each is answered, each answer exists, and the page is the table."""

from pathlib import Path

import pytest

from kljax.command_line import compose
from kljax.config import Config, RewardTerm
from kljax.config.coming_from import answer, page, rows
from kljax.config.mistakes import leaf_keys
from kljax.errors import UserError
from kljax.overrides.folders import options

PAGE = Path(__file__).parents[2] / "docs" / "coming_from_trl.md"
KEYS = set(leaf_keys(Config)) | {f"reward.NAME.{field}" for field in leaf_keys(RewardTerm)}
NAMES = [name for row in rows() for name in row.names]


def test_the_page_is_the_table():
    """After a change: python -m kljax.config.coming_from > docs/coming_from_trl.md."""
    assert PAGE.read_text() == page()


def test_no_key_is_in_two_rows():
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("ours", sorted({row.ours for row in rows() if row.ours}))
def test_what_is_offered_exists(ours):
    key, _, value = ours.partition("=")
    if value and (names := options(key)):
        assert value in names
    else:
        assert key in KEYS
        if value:
            compose([ours], Config)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in KEYS])
def test_a_key_of_trls_is_answered_with_its_row(name):
    name = name.replace("*", "x")
    with pytest.raises(UserError) as raised:
        compose([f"{name}=1"], Config)
    assert str(raised.value).startswith(f"{name}: no such config key. ")
    assert str(raised.value).endswith(answer(name) or "?")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "num_generations=8",
            "num_generations: no such config key. TRL's num_generations is rollout.samples here: completions a",
        ),
        ("+num_generations=8", "num_generations: no such config key. TRL's num_generations is rollout.samples here: "),
        ("rollout.num_generations=8", "rollout.num_generations: no such config key. TRL's num_generations is rollout.samples"),
        ("epsilon=0.2", "epsilon: no such config key. TRL's epsilon has no counterpart: nothing is clipped yet: "),
        ("vllm_gpu_memory_utilization=0.3", "vllm_gpu_memory_utilization: no such config key. TRL's vllm_gpu_memory"),
        ("beta=0.1", "beta: no such config key. Did you mean 'kl.beta'? TRL's beta is kl.beta here: "),
        (
            "learning_rate=1",
            "learning_rate: no such config key. Did you mean 'optimizer.learning_rate' or 'pretrain.optimizer.l",
        ),
        ("samples=1", "samples: no such config key. Did you mean 'evaluation.samples' or 'rollout.samples'?"),
        ("penalty=exact", "penalty: no such config key. Did you mean 'kl.penalty'?"),
        ("model.penalty=exact", "model.penalty: no such config key. Did you mean 'kl.penalty'?"),
        ("temprature=1", "temprature: no such config key. Did you mean 'rollout.temperature'?"),
        ("pretrain.warmup_ratio=1", "pretrain.warmup_ratio: no such config key."),
    ],
)
def test_a_key_is_answered_with_ours(override, sentence):
    with pytest.raises(UserError) as raised:
        compose([override], Config)
    assert str(raised.value).startswith(sentence)
    assert "TRL" not in str(raised.value) or "pretrain." not in override


@pytest.mark.parametrize("key", ["rollout.top_k", "rollout.top_p"])
def test_what_training_has_no_more_is_answered_with_why(key):
    assert answer(key) == (
        f"There is evaluation.{key[-5:]}: training samples from the whole policy: states of a cut one would come from another "
        "policy than is scored."
    )

"""The schema: the configs that ship are valid, and each wrong value is answered with its field."""

import ast
import copy
import typing
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from kljax import config as schema
from kljax.command_line import CONFIGS, compose
from kljax.config import AnalysisConfig, Config, RewardTerm, to_dict
from kljax.config.mistakes import leaf_keys
from kljax.config.validation import validate
from kljax.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(file.stem for file in (CONFIGS / "experiment").glob("*.yaml"))
REWARDS = sorted(file.stem for file in (CONFIGS / "reward").glob("*.yaml"))
TASKS = sorted(file.stem for file in (CONFIGS / "task").glob("*.yaml"))
MODELS = sorted(file.stem for file in (CONFIGS / "model").glob("*.yaml"))
ABSENT = object()
LLAMA3 = {"kind": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 32}
PINNED = {
    "model.heads": 4,
    "model.kv_heads": 4,
    "model.context": 64,
    "data.prompt": {"kind": "prefix", "min_tokens": 1, "max_tokens": 4},
    "rollout.max_new_tokens": 24,
    "pretrain.length": 32,
    "pretrain.steps": 600,
}
"""The values that the sentences below speak of, whatever configs/ holds."""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("name=bases", "name: got 'bases', which is the folder of fitted models; expected another name."),
        ("name=Bases", "name: got 'Bases', which is the folder of fitted models; expected another name."),
        ("name=frontier.csv", "name: got 'frontier.csv', a file that kljax frontier writes there; expected "),
        ("run.variant=overoptimisation.png", "run.variant: got 'overoptimisation.png', a file that experiments.studies.ov"),
    ],
)
def test_names_that_are_taken_are_refused(override, said):
    with pytest.raises(UserError) as raised:
        compose([override], Config)
    assert str(raised.value).startswith(said)


def flat_keys(values, prefix=""):
    for key, value in values.items():
        yield from flat_keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]


def raw(name, *overrides):
    """What Hydra composes, before the schema has seen it."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return OmegaConf.to_container(hydra.compose(name, overrides=list(overrides)), resolve=True)


@pytest.fixture(scope="module")
def defaults():
    return changed(to_dict(compose(["experiment=grammar", "reward=sentiment"], Config)), PINNED)


def changed(values, changes):
    """A copy with other values at dotted keys."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        if value is ABSENT:
            del section[last]
        else:
            section[last] = value
    return values


def complaint(values, changes, wanted=Config):
    with pytest.raises(UserError) as raised:
        validate(changed(values, changes), wanted)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    return sentence


TASK = ["data/prompt=whole", "pretrain/objective=target"]
NEEDED = {
    "reward=model": ["reward.model.arguments.path=x"],
    "reward=model_text": ["reward.model_text.arguments.path=x"],
    "reward=python": ["reward.python.function=x.y"],
    "reward=jax": ["reward.jax.function=x.y"],
    "model=huggingface": ["model.path=x"],
    "reward=task": [*TASK, "task=words"],
    "task=python": [*TASK, "task.function=x.y"],
} | {f"task={name}": TASK for name in TASKS if name not in ("none", "python")}
"""What a choice leaves to the user."""


@pytest.mark.parametrize(
    "override",
    ["seed=0"]
    + [f"experiment={name}" for name in EXPERIMENTS]
    + [f"reward={name}" for name in [*REWARDS, f"[{','.join(REWARDS)}]"]]
    + [f"model={name}" for name in MODELS]
    + [f"task={name}" for name in TASKS],
)
def test_every_config_that_ships_is_valid_and_comes_back_from_its_dictionary(override):
    chosen = [override, *NEEDED.get(override, [])]
    if override.startswith("reward=["):
        chosen += [needed for choice, given in NEEDED.items() if choice.startswith("reward=") for needed in given]
    config = compose(chosen, Config)
    assert validate(to_dict(config), Config) == config
    assert validate(yaml.safe_load(yaml.safe_dump(to_dict(config))), Config) == config


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_values_and_schema_have_the_same_keys(experiment):
    override = f"experiment={experiment}"
    assert set(flat_keys(raw("config", override))) == set(flat_keys(to_dict(compose([override], Config))))


def test_the_analysis_config_is_valid():
    config = compose(["run=somewhere"], AnalysisConfig, "analyze")
    assert set(flat_keys(raw("analyze", "run=somewhere"))) == set(flat_keys(to_dict(config)))
    assert validate(to_dict(config), AnalysisConfig) == config


def schemas():
    return [value for value in vars(schema).values() if is_dataclass(value)]


WHERE = {
    "Config": "config",
    "RunConfig": "config:run",
    "TextSource": "data/source/text",
    "WholePrompt": "data/prompt/whole",
    "ChatPrompt": "data/prompt/chat",
    "HuggingFaceModel": "model/huggingface",
    "PretrainedTokenizer": "tokenizer/pretrained",
    "LoraAdapter": "adapter/lora",
    "ReferenceConfig": "config:reference",
    "EvaluationConfig": "config:evaluation",
    "ExportConfig": "export",
    "JudgeConfig": "judge",
    "DecoderConfig": "model/gpt2",
    "PretrainConfig": "config:pretrain",
}
"""Sections with fields that came later, and where their values live."""


@pytest.mark.parametrize("section", schemas(), ids=lambda section: section.__name__)
def test_values_live_in_configs_only(section):
    """A default in the schema is what older config.yaml files mean that lack a field, and is the value of configs/."""
    for field in fields(section):
        default = getattr(field.default, "default", field.default)
        assert field.default_factory is MISSING, field.name
        if default is not MISSING and repr(default) != "PydanticUndefined":  # a union's Field carries its discriminator alone
            file, _, key = WHERE[section.__name__].partition(":")
            values = yaml.safe_load((ROOT / "configs" / f"{file}.yaml").read_text())
            if field.name == "task":  # a choice of its own
                values = {"task": yaml.safe_load((ROOT / "configs/task/none.yaml").read_text())}
            assert (values[key] if key else values)[field.name] == (to_dict(default) if is_dataclass(default) else default)


def read_attributes():
    """Every `.name` that the code reads outside the schema and its checks, and every string in a tuple (they serve getattr)."""
    names = set()
    for file in [*(ROOT / "kljax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        if Path(schema.__file__).parent not in file.parents:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    names.add(node.attr)
                elif isinstance(node, ast.Tuple):
                    names |= {part.value for part in node.elts if isinstance(part, ast.Constant)}
    return names


def test_every_field_is_read_somewhere():
    """A flag that is declared and never read is worse than none."""
    declared = {field.name for section in schemas() for field in fields(section)}
    handed_on = {"alpha", "mix"}  # to the divergence of that name, as whatever parameters it has
    assert declared - read_attributes() == handed_on - read_attributes()


def test_leaf_keys_are_all_keys_of_all_alternatives(defaults):
    keys = set(leaf_keys(Config))
    assert {key for key in flat_keys(defaults) if not key.startswith("reward.")} <= keys
    assert {"data.source.sentences", "data.source.path", "data.prompt.min_tokens", "tokenizer.vocab_size", "kl"} <= keys
    for key in keys:
        section = [Config]
        for part in key.split("."):
            owners = [member for member in section if is_dataclass(member) and part in {f.name for f in fields(member)}]
            assert owners, key
            hints = [typing.get_type_hints(owner)[part] for owner in owners]
            section = [member for hint in hints for member in (typing.get_args(hint) or (hint,))]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kl.beta", -0.1, ["-0.1", "0", "To train without a penalty, set kl.beta=0."]),
        ("kl.beta", float("nan"), ["nan", "finite"]),
        ("kl.beta", float("inf"), ["inf", "finite"]),
        ("kl.beta", None, ["None", "number"]),
        ("kl.beta", "large", ["'large'", "number"]),
        ("kl.penalty", "exat", ["'exat'", "exact, k1_reward, exact_token", "Did you mean 'exact'?"]),
        ("algorithm", "ppo", ["'ppo'", "reinforce, rloo"]),
        ("model.dtype", "float31", ["'float31'", "float32, bfloat16", "Did you mean 'float32'?"]),
        ("model.layers", 0, ["0", "1"]),
        ("model.layers", 1.5, ["1.5", "a whole number"]),
        ("model.layers", "two", ["'two'", "a whole number"]),
        ("model.bias", "some", ["'some'", "none, qkv, all"]),
        ("model.remat", "all", ["'all'", "one of none, mlp, layer."]),
        ("rollout.keep_activations", "maybe", ["'maybe'", "true or false or null."]),
        ("kl.hard_budget", "off", ["'off'", "a number or null."]),
        ("model.qk_norm", "some", ["'some'", "true or false or one of whole."]),
        ("model.context", None, ["None", "a whole number."]),
        ("data.share", 0.5, ["0.5", "a list."]),
        ("data.share", [0.5], ["[0.5]", "at least 2 entries."]),
        ("optimizer", "adam", ["'adam'", "a section; its keys are optimizer.learning_rate, optimizer.schedule"]),
        ("kl.divergence", "renyi", ["'renyi'", "a section; choose it as a whole, with kl/divergence=renyi."]),
        ("data.source", "x.csv", ["'x.csv'", "a section; choose it as a whole, with data/source=…."]),
        ("model.rope_scaling", "linear", ["'linear'", "null or a section with its kind, as in 'model.rope_scaling={kind: …}'"]),
        ("reward.mine", "my.f", ["'my.f'", "a section, as in '{kind: python, function: module.function, "]),
        ("run.root", "", ["''", "some text."]),
        ("algorithm", "grpo", ["'grpo'", "GRPO is nearest to algorithm=rloo reward_scale=prompt_std kl.penalty=k3_loss"]),
        ("model.dropout", 1.0, ["1.0", "a number < 1."]),
        ("steps", -3, ["-3", "1"]),
        ("seed", -1, ["-1", "0"]),
        ("seed", True, ["True", "a whole number"]),
        ("seed", 2**32, ["4294967296", "4294967295"]),  # a larger one would overflow the PRNG key
        ("pretrain.seed", 2**63, ["9223372036854775808", "4294967295"]),
        ("evaluation.seed", 2**63, ["9223372036854775808", "4294967295"]),
        ("name", 3, ["3", "text"]),
        ("name", "", ["''", "letters"]),
        ("name", "..", ["'..'", "letters"]),  # it would leave run.root
        ("name", "../../x", ["'../../x'", "letters"]),
        ("run.variant", "a/b", ["'a/b'", "letters"]),
        ("pretrain.length", 1, ["1", "2"]),
        ("rollout.prompts", 1, ["1", "2"]),
        ("data.prompt_fraction", 1.0, ["1.0", "a number < 1."]),
        ("data.held_out_fraction", -0.1, ["-0.1", "a number >= 0."]),
        ("data.share", [0.0, 1.5], ["1.5", "a number <= 1."]),
        ("data.source.sentences", 0, ["0", "1"]),
        ("data.prompt.max_tokens", -1, ["-1", "0"]),
        ("reward.sentiment.weight", "heavy", ["'heavy'", "number"]),
        ("reward.sentiment.kind", "jaxx", ["'jaxx'", "jax, python", "Did you mean 'jax'?"]),
        ("mesh.data", -2, ["-2", "-1"]),
        ("optimizer.b1", 1.0, ["1.0", "a number < 1."]),
        ("pretrain.optimizer.learning_rate", 0.0, ["0.0", "a number > 0."]),
    ],
)
def test_a_wrong_value_is_answered_with_field_value_and_expectation(defaults, key, value, expected):
    sentence = complaint(defaults, {key: value})
    assert sentence.startswith(f"{key}: got {expected[0]}, expected ")
    for fragment in expected[1:]:
        assert fragment in sentence.split(", expected ", 1)[1]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("kl.bta", "kl.beta"),
        ("rollout.temprature", "rollout.temperature"),
        ("data.source.sentence", "data.source.sentences"),
        ("pretrain.optimizer.warmup", "pretrain.optimizer.warmup_steps"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(defaults, key, nearest):
    assert complaint(defaults, {key: 1}) == f"{key}: no such config key. Did you mean '{nearest}'?"


def test_an_unknown_key_of_a_reward_is_named(defaults):
    assert complaint(defaults, {"reward.sentiment.weigth": 1.0}).startswith("reward.sentiment.weigth: no such config key.")


@pytest.mark.parametrize("key", ["kl.beta", "name", "data.source.seed", "reward.sentiment.function", "optimizer"])
def test_a_missing_value_is_named(defaults, key):
    assert complaint(defaults, {key: ABSENT}).startswith(f"{key}: missing")


@pytest.mark.parametrize("key", ["data.source", "data.prompt", "tokenizer"])
def test_a_wrong_or_missing_kind_is_answered_with_the_right_ones(defaults, key):
    kinds = {
        "data.source": "grammar, letters, random_words, questions, text",
        "data.prompt": "prefix, whole, chat",
        "tokenizer": "words, bpe, pretrained",
    }[key]
    assert complaint(defaults, {f"{key}.kind": "odd"}).startswith(f"{key}.kind: got 'odd', expected one of {kinds}.")
    assert complaint(defaults, {f"{key}.kind": ABSENT}).startswith(f"{key}: its 'kind' is missing")


def test_a_field_of_an_alternative_is_named_without_its_tag(defaults):
    source = {"kind": "text", "path": 3, "column": "text", "split": "train"}
    assert complaint(defaults, {"data.source": source}).startswith("data.source.path: got 3, expected ")
    assert complaint(defaults, {"tokenizer": {"kind": "bpe", "vocab_size": 100}}).startswith("tokenizer.vocab_size: got 100, ")


def test_a_wrong_step_of_the_analysis_is_named():
    values = to_dict(compose(["run=somewhere"], AnalysisConfig, "analyze"))
    assert complaint(values, {"step": "last"}, AnalysisConfig).startswith("step: got 'last', expected ")


def test_no_reward_is_refused_with_the_way_out(defaults):
    sentence = complaint(defaults, {"reward": {}})
    assert sentence.startswith("reward: got {}, expected ")
    assert "reward=[sentiment,length]" in sentence


@pytest.mark.parametrize(
    ("changes", "beginning", "fragments"),
    [
        ({"model.kv_heads": 3}, "model.kv_heads: got 3", ["model.heads=4", "1, 2, 4"]),
        ({"model.positions": "rotary", "model.head_dim": 15}, "model.head_dim: got 15", ["even"]),
        ({"model.rope_scaling": {"kind": "linear", "factor": 2.0}}, "model.rope_scaling: got linear", ["learned", "null"]),
        ({"model.nope_every": 2}, "model.nope_every: got 2", ["learned", "0"]),
        ({"model.positions": "rotary", "model.nope_every": 3}, "model.nope_every: got 3", ["model.layers=2"]),
        (
            {"model.positions": "rotary", "model.rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
            "model.rope_scaling.high_freq_factor: got 1.0",
            ["low_freq_factor=1.0"],
        ),
        ({"data.prompt.min_tokens": 9}, "data.prompt.min_tokens: got 9", ["data.prompt.max_tokens=4"]),
        ({"model.context": 20, "pretrain.length": 20}, "data.prompt.max_tokens: ", ["29", "model.context=20"]),
        ({"pretrain.length": 65}, "pretrain.length: got 65", ["model.context=64"]),
        ({"data.prompt_fraction": 0.6, "data.held_out_fraction": 0.5}, "data.prompt_fraction: ", ["data.held_out_fraction"]),
        ({"rollout.temperature": 0}, "rollout.temperature: got 0", ["> 0"]),
        (
            {"rollout.keep_activations": True, "model.remat": "mlp"},
            "rollout.keep_activations: got true with model.remat=mlp",
            ["none"],
        ),
        (
            {"rollout.keep_activations": True, "rollout.cache_dtype": "bfloat16"},
            "rollout.keep_activations: got true with rollout.cache_dtype=bfloat16",
            ["model.dtype=float32", "null"],
        ),
        ({"optimizer.warmup_steps": 80, "steps": 80}, "optimizer.warmup_steps: got 80", ["80 steps"]),
        ({"pretrain.optimizer.warmup_steps": 600}, "pretrain.optimizer.warmup_steps: got 600", ["600 steps"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_do_not_go_together_are_refused(defaults, changes, beginning, fragments):
    sentence = complaint(defaults, changes)
    assert sentence.startswith(beginning)
    for fragment in fragments:
        assert fragment in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"model.kv_heads": 1},
        {"data.prompt.min_tokens": 4},
        {"model.positions": "rotary", "model.rope_scaling": LLAMA3, "model.nope_every": 2},
        {"model.context": 4 + 1 + 24, "pretrain.length": 4 + 1 + 24},  # prompt, beginning token, completion
        {"optimizer.warmup_steps": 79, "steps": 80},
        {"kl.beta": 0},
        {"rollout.keep_activations": True, "rollout.cache_dtype": "float32"},
        {"mesh.data": -1},
        {"seed": 2**32 - 1},
        {"pretrain.length": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_values_at_the_bound_are_taken(defaults, changes):
    validate(changed(defaults, changes), Config)


def test_a_config_is_frozen(defaults):
    config = validate(defaults, Config)
    with pytest.raises(AttributeError):
        config.seed = 1  # pyright: ignore
    assert replace(config, seed=config.seed + 1) != config


def test_a_reward_may_have_any_name_and_arguments(defaults):
    term = {"kind": "python", "function": "some.function", "weight": -1.0, "arguments": {"a": [1, {"b": None}]}}
    assert validate(changed(defaults, {"reward.mine": term}), Config).reward["mine"] == RewardTerm(**term)


def test_a_budget_of_the_kl_to_a_reference_that_follows_is_refused():
    with pytest.raises(UserError, match=r"kl.hard_budget: got 2 with reference.refresh=every: .* expected null, or a"):
        compose(["kl.hard_budget=2.0", "reference/refresh=every"], Config)

"""Names of run directories: short, safe, the same for the same command, and never those of another config."""

from itertools import product
from pathlib import Path

import pytest
import yaml

from kljax.command_line import compose, variant
from kljax.config import AnalysisConfig, Config
from kljax.errors import UserError
from kljax.overrides.variants import LONGEST, Job, distinct, label
from kljax.runs import config_file

UNSAFE = set("=, '\"{}[]()$*?;&|<>/\\:\n")  # to Hydra, to a shell or to a file system

AWKWARD = [
    "reward=[sentiment,length]",
    "+reward.mine={kind: python, function: a.b, weight: 1, arguments: {}}",
    "~reward.length",
    "data.source.path='/some where/reviews=1,2.parquet'",
    "reward.regex.arguments.pattern='^a|b$'",
    "++model.layers=3",
    "reward.length.weight=-0.5",
    "kl.beta=1e-3",
]


def test_no_overrides_are_the_default():
    assert variant([]) == "default"
    assert variant(["run.root=/tmp/x", "run.save_every=3", "experiment=grammar", "name=other"]) == "default"


def test_how_hydra_runs_the_jobs_makes_no_other_variant():
    assert variant(["hydra/launcher=basic", "hydra.verbose=true", "seed=1"]) == "seed-1"


def test_a_variant_is_named_by_its_overrides_in_any_order():
    assert variant(["seed=1", "kl.beta=0.3"]) == variant(["kl.beta=0.3", "seed=1", "run.root=x"]) == "kl.beta-0.3+seed-1"


def test_of_a_key_that_is_given_twice_the_last_value_is_named():
    assert variant(["seed=1", "kl.beta=0.3", "seed=2"]) == "kl.beta-0.3+seed-2"


@pytest.mark.parametrize("override", AWKWARD)
def test_a_variant_is_a_safe_file_name(override):
    name = variant([override])
    assert not UNSAFE & set(name)
    assert name not in ("", ".", "..", "default")


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("data.source.path=/a/b/reviews.csv", "data.source.path-reviews.csv"),
        ("data.source.path=reviews.csv", "data.source.path-reviews.csv"),
        ("model.path=org/model", "model.path-model"),
        ("reference.path=runs/x/default@200", "reference.path-default_200"),
        ("model.path=models/minilm/", "model.path-minilm"),
        ("data.source.path=[a/x.csv,'b c/y.csv']", "data.source.path-x.csv_y.csv"),
        ("data.source.path='/some where/reviews=1,2.parquet'", "data.source.path-reviews_1_2.parquet"),
        ("reward=[sentiment,length]", "reward-sentiment_length"),
        ("kl.penalty=k1_reward", "kl.penalty-k1_reward"),
    ],
)
def test_a_path_is_named_by_its_last_component(override, name):
    assert variant([override]) == name


@pytest.mark.parametrize(
    ("overrides", "whole"),
    [
        (["kl.beta=0.3", "seed=1", "kl.penalty=k1_reward", "model=llama"], True),
        (["data.source.path=a/b.csv"], False),
        (["reward=[sentiment,length]"], False),
        ([f"reward.term{i}.weight={i}" for i in range(30)], False),
    ],
)
def test_a_label_knows_whether_it_says_all(overrides, whole):
    assert label(overrides).whole is whole


def test_a_variant_passes_through_hydra_unchanged():
    path = f"runs/some/{variant(AWKWARD)}"
    assert compose([f"run={path}"], AnalysisConfig, "analyze").run == path


def test_variants_of_a_sweep_differ():
    sweep = [variant([f"kl.beta={beta}", f"seed={seed}"]) for beta, seed in product([0.1, 0.3, 1, 1e-3], range(3))]
    assert len(set(sweep)) == len(sweep)


def test_a_long_variant_loses_the_sections_that_say_nothing():
    keys = ["rollout.max_new_tokens", "rollout.prompts", "evaluation.prompts", "pretrain.steps"]
    assert variant([f"{key}=1" for key in keys] + ["data.seed=3", "kl.penalty=k1_reward", "kl.beta=0.5"]) == (
        "beta-0.5+data.seed-3+evaluation.prompts-1+max_new_tokens-1+penalty-k1_reward+pretrain.steps-1+rollout.prompts-1"
    )


def test_how_long_a_run_is_is_not_in_its_name():
    """Or the same run could not be gone on with; the steps of a base model are."""
    assert variant(["steps=3", "kl.beta=0.5"]) == variant(["epochs=2.0", "kl.beta=0.5"]) == "kl.beta-0.5"
    assert variant(["steps=30"]) == "default"
    assert variant(["pretrain.steps=3"]) == "pretrain.steps-3"


def test_a_longer_one_is_cut():
    assert len(variant([f"reward.term{i}.weight={i}" for i in range(30)])) <= LONGEST


def test_the_variant_is_made_from_the_command_line_unless_it_is_given():
    assert compose(["kl.beta=0.3", "run.root=x"], Config).run.variant == "kl.beta-0.3"
    assert compose(["kl.beta=0.3", "run.variant=mine"], Config).run.variant == "mine"


TEXT = ["data/source=text", "tokenizer=bpe", "tokenizer.vocab_size=300", "reward=length"]


@pytest.fixture
def named(tmp_path):
    """named(*lists of overrides): what distinct makes of a launch of these jobs; made(config) is a run of it on disk."""

    def run(*jobs):
        composed = [(compose([*overrides, f"run.root={tmp_path}"], Config), overrides) for overrides in jobs]
        automatic = [not any(one.startswith("run.variant=") for one in overrides) for _, overrides in composed]
        return distinct(
            [
                Job(config, label(overrides) if auto else None)
                for (config, overrides), auto in zip(composed, automatic, strict=True)
            ]
        )

    return run


def made(config):
    path = config_file.run_path(config)
    path.mkdir(parents=True)
    (path / config_file.CONFIG).write_text(yaml.safe_dump(config_file.identity(config) | {"run": {}}))
    return path


def one(launched):
    [config], notes = launched
    return config.run.variant, notes


def source(path):
    return [*TEXT, f"data.source.path={path}"]


def test_another_path_with_the_same_end_gets_a_hash_and_both_are_found_again(named):
    plain, notes = one(named(source("a/x.csv")))
    assert not notes
    made(named(source("a/x.csv"))[0][0])
    hashed, [note] = one(named(source("b/x.csv")))
    assert hashed[:-7] == plain and hashed[-7] == "-" and int(hashed[-6:], 16) >= 0
    assert plain in note and hashed in note and "data.source.path" in note
    made(named(source("b/x.csv"))[0][0])
    assert one(named(source("b/x.csv"))) == (hashed, [])
    assert one(named(source("a/x.csv"))) == (plain, [])
    assert one(named(source("c/x.csv")))[0] not in (plain, hashed)


def test_a_run_that_has_a_hash_keeps_it_when_the_plain_name_is_free_again(named):
    first = made(named(source("a/x.csv"))[0][0])
    hashed = made(named(source("b/x.csv"))[0][0])
    (first / config_file.CONFIG).unlink()
    first.rmdir()
    assert one(named(source("b/x.csv")))[0] == hashed.name


def test_jobs_of_a_sweep_that_would_be_one_directory_get_hashes(named):
    paths = ("a/x.csv", "b/x.csv", "c/y.csv")
    configs, notes = named(*(source(path) for path in paths))
    names = [config.run.variant for config in configs]
    assert len(set(names)) == 3 and notes == []
    assert names[2] == variant(source("c/y.csv"))
    assert [name[:-7] for name in names[:2]] == [variant(source("a/x.csv"))] * 2
    assert named(*(source(path) for path in paths))[0] == configs  # and the same sweep is the same directories
    for config in configs:
        made(config)
    assert [one(named(source(path)))[0] for path in paths] == names  # and so is each job alone


def test_the_run_that_a_sweep_finds_under_the_plain_name_keeps_it(named):
    plain = made(named(source("a/x.csv"))[0][0]).name
    configs, _ = named(source("a/x.csv"), source("b/x.csv"))
    assert configs[0].run.variant == plain
    assert configs[1].run.variant.startswith(f"{plain}-")


def test_a_plain_name_is_kept_for_the_sentence_of_the_run_that_is_there(named):
    """`seed=1` says all: a run of it that differs was made by the same command, with another default or file."""
    made(named(["seed=1", "kl.beta=0.7", "run.variant=seed-1"])[0][0])
    assert one(named(["seed=1"])) == ("seed-1", [])


@pytest.mark.parametrize("content", ["", "a: [", None])
def test_what_is_no_run_is_left_to_the_sentence_that_says_so(named, content):
    config = named(source("a/x.csv"))[0][0]
    path = made(config)
    (path / config_file.CONFIG).unlink() if content is None else (path / config_file.CONFIG).write_text(content)
    if content is None:
        assert one(named(source("a/x.csv")))[0] == path.name
    else:
        with pytest.raises(UserError, match="cannot be read as a YAML mapping"):
            named(source("a/x.csv"))


def test_steps_that_follow_from_epochs_make_no_other_run(named):
    [config], _ = named([*source("a/x.csv"), "epochs=2"])
    path = made(config)
    kept = yaml.safe_load((path / config_file.CONFIG).read_text()) | {"steps": 1234}
    (path / config_file.CONFIG).write_text(yaml.safe_dump(kept))
    assert one(named([*source("a/x.csv"), "epochs=2"])) == (path.name, [])
    assert one(named([*source("b/x.csv"), "epochs=2"]))[0] != path.name


def test_two_jobs_of_a_name_that_was_given_are_refused(named):
    with pytest.raises(UserError, match=r"^run.variant: two different jobs"):
        named(["seed=0", "run.variant=one"], ["seed=1", "run.variant=one"])


def test_the_same_job_twice_is_one_run(named):
    configs, _ = named(source("a/x.csv"), source("a/x.csv"))
    assert configs[0] == configs[1]
    assert configs[0].run.variant == variant(source("a/x.csv"))


def test_a_name_with_a_hash_is_a_name(named):
    long = [f"+reward.{'x' * 60}{i}={{kind: python, function: a.b, weight: 1.0, arguments: {{}}}}" for i in range(4)]
    made(named(long)[0][0])
    [config], _ = named([*long[:-1], long[-1].replace("1.0", "2.0")])
    assert config.run.variant != variant(long) and config.run.variant.startswith(variant(long))
    assert Path(config.run.variant).name == config.run.variant
    assert len(config.run.variant) < 255


def test_a_run_is_found_again_whatever_its_length(named):
    plain, _ = one(named(source("a/x.csv")))
    made(named(source("a/x.csv"))[0][0])
    hashed = one(named([*source("b/x.csv"), "steps=30"]))[0]
    made(named([*source("b/x.csv"), "steps=30"])[0][0])
    assert one(named([*source("a/x.csv"), "steps=70"])) == (plain, [])
    assert one(named([*source("b/x.csv"), "epochs=2.0"])) == (hashed, [])


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (["steps=30"], ["steps=60"], "steps"),
        (["epochs=1.0"], ["epochs=2.0"], "epochs"),
        (["steps=30"], ["epochs=2.0"], "epochs"),
        (["steps=30", "run.variant=mine"], ["steps=60", "run.variant=mine"], "steps"),
        (["run.save_every=1"], ["run.save_every=2"], "run.save_every"),
        ([*source("a/x.csv"), "steps=30"], [*source("a/x.csv"), "steps=60"], "steps"),
    ],
)
def test_jobs_that_would_be_one_run_are_refused(named, first, second, field):
    others = [["kl.beta=0.1"], source("b/x.csv")]  # by which the last ones get a hash
    with pytest.raises(UserError, match=rf"^{field}: jobs of this sweep differ in it alone .* makes no other run"):
        named(*others, first, second)


def test_jobs_of_another_length_in_directories_of_their_own_are_runs(named):
    jobs = [["steps=30", "run.variant=steps-${steps}"], ["steps=60", "run.variant=steps-${steps}"]]
    assert [config.run.variant for config in named(*jobs)[0]] == ["steps-30", "steps-60"]


def test_bases_that_are_exported_to_several_places_are_no_runs(named):
    assert len(named(["run.export_to=a"], ["run.export_to=b"])[0]) == 2


def test_the_way_out_is_one_where_the_learning_rate_knows_the_length(named):
    with pytest.raises(UserError, match="Launch the longest alone"):
        named(["steps=30"], ["steps=60"])
    with pytest.raises(UserError, match="Launch one, or each a directory"):
        named(*(["optimizer.schedule=linear", f"steps={steps}"] for steps in (30, 60)))

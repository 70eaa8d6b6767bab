"""From a command line to a run, or to one sentence and exit code 2."""

import logging
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from kljax import command_line
from kljax.command_line import compose, launch, reporting_mistakes
from kljax.config import (
    AnalysisConfig,
    BpeTokenizer,
    Config,
    ExportConfig,
    JudgeConfig,
    PretrainedTokenizer,
    RewardTerm,
    TextSource,
)
from kljax.config.mistakes import leaf_keys
from kljax.errors import UserError
from kljax.overrides import jobs

ROOT = Path(__file__).parents[1]
MINE = "{kind: python, function: my.f, weight: 1.0, arguments: {}}"


def complaint(*overrides):
    with pytest.raises(UserError) as raised:
        compose(overrides, Config)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["kl.bta=0.1"], "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        (["+kl.bta=0.1"], "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        (["modle=gpt2"], "modle: no such config key. Did you mean 'model'?"),
        (["experiment=grammr"], "experiment: no option 'grammr', expected one of "),
        (["model=gpt3"], "model: no option 'gpt3', expected one of bert, gpt2, huggingface, llama. Did you mean 'gpt2'?"),
        (["kl.beta=-1"], "kl.beta: got -1, expected "),
        (["kl.beta="], "kl.beta: got '', expected a number"),
        (["~kl.beta"], "kl.beta: missing"),
        (["tokenizer.kind=bpe"], "tokenizer.vocab_size: missing, and it has no default; give it as +tokenizer.vocab_size=…"),
        (["kl.beta=${nothing}"], "kl.beta: Interpolation key 'nothing' not found"),
        (["name=${oc.env:NOWHERE}"], "name: Environment variable 'NOWHERE' not found"),
        (["kl.beta"], "kl.beta: no value is given; expected key=value, without spaces around the '='."),
        (["kl.beta=0.1,"], "kl.beta=0.1,: no value stands beside a comma."),
        (["reward=[sentiment,length,]"], "reward=[sentiment,length,]: no value stands beside a comma."),
        (["kl.beta==0.1"], "kl.beta==0.1: got two '=', expected key=value, as in kl.beta=0.1."),
        (["kl.beta=0.1;seed=1"], "kl.beta=0.1;seed=1: two in one; divide them by a space."),
        (
            ["reward=[sentiment,"],
            "reward=[sentiment,: a bracket ([) is not closed; quote the whole for the shell, as in 'reward=[a, b]'",
        ),
        (["name='a"], "name='a: a quote (') is not closed;"),
        (["steps:100"], "steps:100: no value is given; expected key=value"),
        (["évaluation.prompts=3"], "évaluation.prompts: no such config key. Did you mean 'evaluation.prompts'?"),
        (["kl.beta=choice()"], "kl.beta=choice(): choice() holds no values."),
        (
            ["kl.beta=0.1,0.3"],
            "kl.beta=0.1,0.3: several values; to sweep over them give -m, for a list write 'kl.beta=[0.1,0.3]'.",
        ),
        (["name=a b, c"], "name=a b, c: several values; to sweep over them give -m, for a text write 'name=\"a b, c\"'."),
        (["seed=range(3)"], "seed=range(3): several values; to sweep over them give -m."),
        (
            ["task=python", "task.function=a.B", "task.arguments={column: word}"],
            "task.arguments: the chosen task has no such argument; to give one to a task of your own, write +task.arguments=…",
        ),
        (
            ["task=words", "task.arguments.names=[a]"],
            "task.arguments.names: the chosen task has no such argument; to give one to a task of your own, write +task.arg",
        ),
        (["task=mine.TASK"], "task: no option 'mine.TASK', expected one of none, numbers, python, sentiment, summarisation, "),
        (["kl=0.1"], "kl=0.1: kl is a section, expected a value for one of its keys."),
        (["data=reviews.csv"], "data: a section, expected a value for one of its keys: data.source=…, data.prompt=…, "),
        (["model=null"], "model=null: expected the name of an option of model: bert, gpt2, huggingface, llama."),
        (["experiment=null"], "experiment=null: expected the name of an option of experiment: "),
        (["reward=null"], "reward=null: expected the name of an option of reward: "),
        (["=3"], "=3: no key stands before the '='; expected key=value."),
        (["experiment="], "experiment: no option '', expected one of "),
        (
            ["experiment=configs/experiment/grammar.yaml"],
            "experiment: no option 'configs/experiment/grammar.yaml', expected one of",
        ),
        (
            ["model=org/name"],
            "model: no option 'org/name', expected one of bert, gpt2, huggingface, llama. A model with its weights",
        ),
        (["+kl.beta=3"], "+kl.beta=3: kl.beta is there already; leave out the +."),
        (["+experiment=grammar"], "+experiment=grammar: experiment has a default already, or is given twice; leave out the +"),
        (["~kl"], "~kl: kl cannot be left out."),
        (["~reward"], "~reward: expected a reward; choose others with reward=…"),
        (["~model"], "model: "),
        (["experiments=grammar"], "experiments: no such config key. Did you mean 'experiment'?"),
        (["reward.length.weight=1"], "reward.length.weight: no reward 'length' is chosen; choose it, as in reward=[…,length]."),
        (["reward.sentiment.wieght=1"], "reward.sentiment.wieght: no such config key. Did you mean 'reward.sentiment.weight'?"),
        (
            ["kl.divergence=renyi"],
            "kl.divergence: got 'renyi', expected a section; choose it as a whole, with kl/divergence=renyi.",
        ),
        (
            ["kl.divergence.alpha=2"],
            "kl.divergence.alpha: not a key of the present choice of kl.divergence; choose the part as a",
        ),
        (["optimizer.lr=1"], "optimizer.lr: no such config key. Those of optimizer are optimizer.b1, "),
        (["mesh.gpus=1"], "mesh.gpus: no such config key. Those of mesh are mesh.data, mesh.fsdp, mesh.tensor."),
        (["data.path=x"], "data.path: no such config key. Did you mean 'data.source.path'?"),
    ],
)
def test_a_mistake_is_one_sentence(overrides, expected):
    assert complaint(*overrides).startswith(expected)


@pytest.mark.parametrize("override", ["reward=sentimnt", "reward=[sentimnt]", "reward=[length,sentimnt]"])
def test_an_unknown_option_is_answered_with_the_nearest(override):
    sentence = complaint(override)
    assert sentence.startswith("reward: no option 'sentimnt', expected one of ")
    assert sentence.endswith("Did you mean 'sentiment'?")


@pytest.mark.parametrize(
    ("override", "repeated"),
    [("kl.beta=[1,2", "kl.beta=[1,2"), ("kl.beta=0.1,0.3", "kl.beta"), ("a b", "a b"), ("+seed=3", "seed")],
)
def test_what_hydra_does_not_understand_is_repeated_in_one_line(override, repeated):
    assert repeated in complaint(override)


def test_trls_keys_are_not_offered_where_nothing_is_trained():
    with pytest.raises(UserError) as raised:
        compose(["run=x", "beta=1"], AnalysisConfig, "analyze")
    assert str(raised.value) == "beta: no such config key."


def test_only_choices_that_have_the_key_are_offered():
    assert "(one of alpha_divergence, renyi)" in complaint("kl.divergence.alpha=2")
    assert "(one of adaptive)" in complaint("kl/controller=target", "kl.controller.target=2")


@pytest.mark.parametrize(
    ("override", "ways_out"),
    [
        ("tokenizer.vocab_size=300", ["tokenizer=…", "one of bpe", "+tokenizer.vocab_size=…"]),
        ("tokenizer={kind:bpe,vocab_size:300}", ["tokenizer=…", "one of bpe, ", "+tokenizer=…"]),
        ("data.source.path=x", ["data/source=…", "one of text", "+data.source.path=…"]),
    ],
)
@pytest.mark.parametrize("kinds", [[], ["tokenizer.kind=bpe", "data.source.kind=text"]], ids=["as it is", "with its kind"])
def test_a_key_of_another_choice_is_answered_with_the_ways_to_it(kinds, override, ways_out):
    sentence = complaint(*kinds, override)
    assert sentence.startswith(f"{override.partition('=')[0]}: ")
    assert "no such config key" not in sentence
    for way_out in ways_out:
        # A key of another kind can be added only with that kind.
        assert (way_out in sentence) == (bool(kinds) or "{" in override or "+" not in way_out)


@pytest.mark.parametrize("override", ["+tokenizer.vocab_size=300", "+tokenizer={kind:bpe,vocab_size:300}"])
def test_the_way_with_a_plus_leads_there(override):
    assert compose(["tokenizer.kind=bpe", override], Config).tokenizer == BpeTokenizer(kind="bpe", vocab_size=300)


def test_text_of_ones_own_is_chosen_with_its_tokenizer_and_reward():
    text = ["data/source=text", "data.source.path=x.csv", "data.source.column=review"]
    config = compose([*text, "tokenizer=bpe", "tokenizer.vocab_size=2048", "reward=vader"], Config)
    assert config.data.source == TextSource(
        kind="text", path="x.csv", column="review", split="train", held_out_path=None, test_path=None
    )
    assert config.tokenizer == BpeTokenizer(kind="bpe", vocab_size=2048)
    assert list(config.reward) == ["vader"]


def test_a_pretrained_tokenizer_is_chosen_with_its_path():
    config = compose(["tokenizer=pretrained", "tokenizer.path=somewhere"], Config)
    assert config.tokenizer == PretrainedTokenizer(kind="pretrained", path="somewhere")


def test_parts_of_the_model_and_of_the_data_are_chosen_by_group():
    config = compose(["model=llama", "data/prompt=whole"], Config)
    assert (config.model.positions, config.model.norm, config.model.mlp) == ("rotary", "rms", "swiglu")
    assert config.data.prompt.kind == "whole"


def test_a_reward_of_ones_own_is_added_beside_the_chosen_one():
    config = compose(["+reward.brevity={kind:python,function:my.brevity,weight:1.0,arguments:{}}"], Config)
    assert config.reward["brevity"] == RewardTerm(kind="python", function="my.brevity", weight=1.0, arguments={})
    assert list(config.reward) == ["sentiment", "brevity"]


def test_several_rewards_are_chosen_and_one_reweighted():
    config = compose(["reward=[sentiment,length]", "reward.length.weight=-0.1"], Config)
    assert {name: term.weight for name, term in config.reward.items()} == {"sentiment": 1.0, "length": -0.1}


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Hydra sets up the root logger, to a stream that is closed when the test has ended."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def command(monkeypatch, tmp_path, tmp_path_factory):
    """command(*arguments): launch a script that only notes its configs; gives the notes and the exit code."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # launch sets it; here it is unset again at the end
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("hydra")))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, schema=Config, config_name="config", script=None):
        seen = []
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        code = 0
        try:
            launch(script or seen.append, schema, config_name)
        except SystemExit as ending:
            code = ending.code
        GlobalHydra.instance().clear()
        assert list(tmp_path.iterdir()) == [], "Hydra writes nothing"
        return seen, code

    return run


def test_a_script_gets_its_config(command, capsys):
    seen, code = command("kl.beta=0.3", "seed=2")
    assert code == 0
    assert seen == [compose(["kl.beta=0.3", "seed=2"], Config)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "by_hydra"),
    [(["seed=2"], False), (["seed=2", "hydra.verbose=true"], True), (["--cfg=job"], True), (["-m", "seed=2"], True)],
)
def test_hydra_runs_what_asks_it_for_more_than_a_config(command, monkeypatch, arguments, by_hydra):
    ran, main = [], hydra.main
    monkeypatch.setattr(hydra, "main", lambda **options: lambda job: lambda: (main(**options)(job)(), ran.append(job)))
    seen, code = command(*arguments)
    assert code == 0
    assert bool(ran) == by_hydra
    assert [config.seed for config in seen] == ([] if "--cfg=job" in arguments else [2])


SCHEMAS = [(Config, "config"), (AnalysisConfig, "analyze"), (ExportConfig, "export"), (JudgeConfig, "judge")]


@pytest.mark.parametrize(("schema", "config_name"), SCHEMAS)
def test_help_needs_no_values(command, capsys, schema, config_name):
    seen, code = command("--help", schema=schema, config_name=config_name)
    assert (seen, code) == ([], 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", [key for key in leaf_keys(JudgeConfig) if key not in ("score", "criteria")])
def test_every_key_of_a_page_can_be_given(command, key):
    """Hydra takes a key that is called as a folder of configs/ for a choice of files."""
    values = {"mode": "rating", "about": "words", "prompts": "3", "repeats": "0.2", "seed": "1"}
    seen, code = command(f"{key}={values.get(key, 'text')}", schema=JudgeConfig, config_name="judge")
    assert code == 0
    assert str(getattr(seen[0], key)) == values.get(key, "text")


def test_the_task_of_a_page_is_called_about(command, capsys):
    assert command("a=x", "b=y", "task=summarisation", schema=JudgeConfig, config_name="judge")[1] == 2
    assert "task: no such config key. What judges are asked is about=…" in capsys.readouterr().err


@pytest.mark.parametrize(("schema", "config_name"), SCHEMAS)
def test_help_alone_names_help_for_a_key(command, capsys, schema, config_name):
    command("--help", schema=schema, config_name=config_name)
    assert "--help KEY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("schema", "config_name", "arguments", "line"),
    [
        (Config, "config", ["--help", "kl", "kl.beta=0.3"], "  kl.beta = 0.3"),
        (Config, "config", ["kl.beta=-1", "-h", "kl.beta"], "kl.beta = -1"),  # what is wrong is asked about, too
        (Config, "config", ["--help", "kl.controller", "kl/controller=adaptive"], "  kl/controller=adaptive   [chosen now]"),
        (AnalysisConfig, "analyze", ["--help", "run", "step=4", "step"], "step = 4"),
        (ExportConfig, "export", ["--help", "merge"], "merge = true"),
        (JudgeConfig, "judge", ["--help", "out", "prompts=3", "prompts"], "prompts = 3"),
    ],
)
def test_help_for_a_key_has_the_value_of_this_command_line(command, capsys, schema, config_name, arguments, line):
    seen, code = command(*arguments, schema=schema, config_name=config_name)
    printed = capsys.readouterr()
    assert (seen, code, printed.err) == ([], 0, "")
    assert line in printed.out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--help", "kl.bta"], "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        (["--help", "kl", "kl.bta=1"], "kl.bta: no such config key. Did you mean 'kl.beta'?"),
        (["--help", "kl", "-m"], "--help: got it with kl and --multirun, expected one of the two."),
    ],
)
def test_a_mistake_in_what_help_is_asked_for_is_one_sentence(command, capsys, arguments, sentence):
    seen, code = command(*arguments)
    assert (seen, code) == ([], 2)
    assert capsys.readouterr().err.splitlines() == [f"kljax: {sentence}"]


def test_a_sweep_runs_every_combination(command):
    seen, code = command("-m", "kl.beta=0.1,0.3", "seed=0,1", "run.root=elsewhere")
    assert code == 0
    assert [(c.kl.beta, c.seed) for c in seen] == [(0.1, 0), (0.1, 1), (0.3, 0), (0.3, 1)]
    assert seen[1].run.variant == "kl.beta-0.1+seed-1"
    assert {c.run.root for c in seen} == {"elsewhere"}


def test_a_sweep_says_what_each_job_is_before_it_starts(command, capsys):
    """And what the seed varies, once, where it does."""
    command("-m", "kl.beta=0.1,0.3", "seed=0,1", "steps=90", script=lambda config: print(f"runs {config.run.variant}"))
    printed = capsys.readouterr().out.splitlines()
    note = next(i for i, line in enumerate(printed) if line.startswith("1/4 "))
    assert " ".join(printed[:note]) == jobs.SEEDS
    assert printed[note:] == [
        line
        for number, (beta, seed) in enumerate(product((0.1, 0.3), (0, 1)), start=1)
        for line in (f"{number}/4 kl.beta={beta} seed={seed} steps=90", f"runs kl.beta-{beta}+seed-{seed}")
    ]


def test_a_sweep_over_the_length_of_one_run_is_refused_before_anything_runs(command, capsys):
    assert command("-m", "steps=40,80", "seed=0,1") == ([], 2)
    said = capsys.readouterr()
    assert said.err.startswith("kljax: steps: jobs of this sweep differ in it alone (40, 80)")
    assert "'run.variant=steps-${steps}'" in said.err


def test_a_file_that_is_not_there_is_told_with_the_variable_that_names_its_folder(command, capsys, monkeypatch):
    monkeypatch.delenv("KLJAX_DATA", raising=False)

    def lacks(config):
        raise UserError(f"data.source.path: no file '{config.data.source.path}' (looked in /).")

    from kljax.commands.train import run as train  # the message of the loader itself

    added = " KLJAX_DATA says in which folder it lies; it is not set.\n"
    assert command("experiment=multi30k", script=train)[1] == 2
    assert capsys.readouterr().err.endswith(added)
    assert command("-m", "experiment=multi30k", "kl.beta=1,2", script=lacks)[1] == 2
    assert capsys.readouterr().err.count(added) == 2
    assert command("experiment=multi30k", "data.source.path=mine.parquet", script=lacks)[1] == 2
    assert capsys.readouterr().err == "kljax: data.source.path: no file 'mine.parquet' (looked in /).\n"


def test_a_plain_run_and_a_sweep_without_seeds_say_nothing_of_seeds(command, capsys):
    command("seed=1")
    assert capsys.readouterr().out == ""
    command("-m", "kl.beta=1,2")
    assert "seed" not in capsys.readouterr().out


def test_jobs_whose_paths_have_the_same_end_are_two_runs(command):
    text = ["data/source=text", "tokenizer=bpe", "tokenizer.vocab_size=300", "reward=length"]
    seen, code = command("-m", *text, "data.source.path=a/x.csv,b/x.csv")
    assert code == 0
    assert len({config.run.variant for config in seen}) == 2
    assert [config.data.source.path for config in seen] == ["a/x.csv", "b/x.csv"]


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        (["epochs=2"], (2.0, 80)),
        (["epochs=0.5", "experiment=enumerable"], (0.5, 500)),  # an experiment's own steps
        (["epochs=null", "steps=7"], (None, 7)),
        (["steps=7"], (None, 7)),
    ],
)
def test_a_run_is_so_many_epochs_or_steps_long(overrides, length):
    config = compose(overrides, Config)
    assert (config.epochs, config.steps) == length


def test_steps_on_the_command_line_go_before_the_epochs_of_an_experiment(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "passes.yaml").write_text("# @package _global_\nname: passes\nepochs: 3\n")
    of_ones_own = ["--config-dir", str(folder), "experiment=passes"]
    [[in_epochs], _], [[in_steps], _] = command(*of_ones_own), command(*of_ones_own, "steps=7")
    assert (in_epochs.epochs, in_steps.epochs, in_steps.steps) == (3.0, None, 7)


def test_epochs_beside_steps_are_refused():
    assert complaint("epochs=2", "steps=40").startswith("epochs: got 2 beside steps=40, expected one of the two")


@pytest.mark.parametrize("value", ["0", "-1", "two", "true"])
def test_epochs_are_a_number_above_zero(value):
    assert complaint(f"epochs={value}").startswith("epochs: got ")


@pytest.mark.parametrize("sweep", [["kl.beta=0.1,-1"], ["kl.beta=0.1,0.3", "steps=0"], ["model=gpt2,gpt3"]])
def test_a_sweep_with_a_bad_job_refuses_before_any_starts(command, capsys, sweep):
    seen, code = command("-m", *sweep)
    assert (seen, code) == ([], command_line.MISTAKE)
    assert capsys.readouterr().err.count("\n") == 1


def test_other_jobs_go_on_after_a_mistake_that_shows_late(command, capsys):
    started = []

    def script(config):
        started.append(config.seed)
        if config.seed == 0:
            raise UserError("data: not there.")

    _, code = command("-m", "seed=0,1,2", script=script)
    assert (started, code) == ([0, 1, 2], command_line.MISTAKE)
    assert capsys.readouterr().err == "kljax: data: not there.\n"


def test_ctrl_c_says_its_sentence_and_exits_with_130(command, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "end_process", sys.exit)  # this process goes on

    def script(config):
        raise KeyboardInterrupt("Saved.")

    _, code = command(script=script)
    assert code == command_line.INTERRUPTED
    assert capsys.readouterr().err == "\nSaved.\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), reporting_mistakes():
        _ = 1 / 0


def run_script(script, *arguments, cwd):
    """The real thing, from a folder of its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("train.py", ["kl.bta=0.1"], "kljax: kl.bta: no such config key. Did you mean 'kl.beta'?\n"),
        ("analyze.py", [], "kljax: run: missing, and it has no default; give it as run=…\n"),
    ],
    ids=["unknown key", "missing value"],
)
def test_a_mistake_on_the_command_line_exits_with_2_and_writes_nothing(tmp_path, script, arguments, sentence):
    where = [] if script == "analyze.py" else [f"run.root={tmp_path}/runs", f"run.compilation_cache={tmp_path}/cache"]
    ended = run_script(script, *arguments, *where, cwd=tmp_path)
    assert ended.returncode == command_line.MISTAKE
    assert ended.stderr.startswith(sentence)
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


def launched(monkeypatch, capsys, *arguments):
    """The words of launch about this command line, and the configs that the script got."""
    configs = []
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        launch(configs.append, Config)
    except SystemExit as end:
        assert end.code == command_line.MISTAKE
    return " ".join(capsys.readouterr().err.split()), configs


@pytest.fixture
def of_ones_own(tmp_path):
    """A directory with two experiments beside kljax's."""
    (tmp_path / "experiment").mkdir()
    for name in ("mine", "mine_too"):
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nname: {name}\nsteps: 7\n")
    return str(tmp_path)


def test_a_directory_of_configs_of_ones_own_is_found(monkeypatch, capsys, of_ones_own):
    said, [config] = launched(monkeypatch, capsys, "--config-dir", of_ones_own, "experiment=mine")
    assert (said, config.name, config.steps) == ("", "mine", 7)


def test_a_pattern_of_experiments_is_a_sweep(monkeypatch, capsys, of_ones_own):
    said, configs = launched(monkeypatch, capsys, "-m", "--config-dir", of_ones_own, "experiment=glob(mine*)", "seed=0,1")
    assert said == ""
    assert [(config.name, config.seed) for config in configs] == list(product(("mine", "mine_too"), (0, 1)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config-dir", "/nowhere"], "--config-dir: got '/nowhere', expected a directory"),
        (["--config-name", "other"], "--config-name: got 'other', expected none"),
        (["-m", "hydra/sweeper=optuna", "seed=0,1"], "hydra/sweeper: got 'optuna', which is not part of Hydra, and no package"),
        (
            ["data.source.path=/d/x=1/b.csv"],
            """quote the value for Hydra and for the shell: 'data.source.path="/d/x=1/b.csv"'.""",
        ),
        (["-m", "run.variant=one", "seed=0,1"], "run.variant: two different jobs of this sweep would both be runs/grammar/one"),
        (["-m", "--cfg", "job"], "--multirun: got it together with --cfg, expected one of the two."),
        (["--resolve"], "--resolve: got it without --cfg"),
        (["-m", "experiment=glob(nothing*)"], "experiment=glob(nothing*): it stands for no value, so there is no job"),
        (["-m", "seed=0,1", "seed=2,3"], "seed=0,1: seed is given twice; expected all its values in one."),
        (["-m", "kl.beta=interval(0,1)"], "kl.beta=interval(0,1): expected values one by one, as in kl.beta=0.1,0.3"),
        (["-m", "seed=[0,1]"], "seed: got [0, 1], expected a whole number."),
        (
            ["--num_generations", "8"],
            "--num_generations: no such option; values are given as key=value, without dashes. TRL's num_",
        ),
        (["--seed", "1"], "--seed: no such option; values are given as key=value, without dashes: seed=…"),
        (["-x"], "-x: no such option; values are given as key=value, without dashes."),
        (
            ["--learning-rate=1"],
            "without dashes. Did you mean 'optimizer.learning_rate' or 'pretrain.optimizer.learning_rate'?",
        ),
        (["--hlep"], "--hlep: no such option; values are given as key=value, without dashes. Did you mean '--help'?"),
        (["reward=[]"], "reward: there is none. Choose one or more of configs/reward/"),
    ],
)
def test_what_cannot_be_launched_is_said_with_the_way_out(monkeypatch, capsys, arguments, sentence):
    said, configs = launched(monkeypatch, capsys, *arguments)
    assert sentence in said
    assert configs == []


def test_the_same_job_twice_is_no_clash(monkeypatch, capsys):
    _, configs = launched(monkeypatch, capsys, "-m", "run.variant=one", "seed=0,0")
    assert len(configs) == 2


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["reward=python", "reward.python.function=my.f"], ["python"]),
        ([f"+reward.mine={MINE}"], ["sentiment", "mine"]),
        (["~reward.sentiment", f"+reward.mine={MINE}"], ["mine"]),
        (["reward=[]", f"+reward.mine={MINE}"], ["mine"]),
        (["reward=[vader,length]", "~reward.length"], ["vader"]),
    ],
)
def test_rewards_are_replaced_added_and_taken_out(overrides, names):
    assert list(compose(overrides, Config).reward) == names

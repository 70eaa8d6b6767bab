"""Rows of data as a task has them: columns made, rows left out, and every mistake of a task in a sentence."""

import json
import sys
from typing import Any

import datasets
import pytest

from kljax.command_line import compose
from kljax.config import Config
from kljax.data.batches import prompt_rows
from kljax.data.text import load_splits, silent
from kljax.errors import UserError
from kljax.runs.setup import _splits
from kljax.tasks import Task
from kljax.tasks.corpus import chrf
from kljax.tasks.rows import READ_AT_ONCE, _each, apply, task_of

ROWS = [{"word": "up", "n": 1}, {"word": None, "n": 2}, {"word": "old", "n": 3}, {"word": " ", "n": 4}]


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def shout(of):
    return {"prompt": f"shout {of['word']}", "target": of["word"].upper()} if of["word"] else None


def applied(row, rows=ROWS, say=silent):
    return apply(Task(row=row), "mine", datasets.Dataset.from_list(rows), "data.source.path", say)


def complaint(row, rows=ROWS):
    with pytest.raises(UserError) as error:
        applied(row, rows)
    return str(error.value)


def test_columns_are_made_and_rows_without_a_prompt_left_out_and_said():
    said = []
    found = applied(shout, say=said.append)
    assert found.to_list() == [
        {"word": "up", "n": 1, "prompt": "shout up", "target": "UP"},
        {"word": "old", "n": 3, "prompt": "shout old", "target": "OLD"},
        {"word": " ", "n": 4, "prompt": "shout  ", "target": " "},
    ]
    assert said == ["task: 'mine' makes no prompt of 1 of 4 rows, left out, row 1 first."]


@pytest.mark.parametrize("nothing", ["", " \n", []])
def test_an_empty_prompt_is_none(nothing):
    assert (
        len(applied(lambda of: {"prompt": nothing if of["n"] > 1 else nothing * 0 or ("x" if nothing != [] else MESSAGES)}))
        == 1
    )


MESSAGES = [{"role": "user", "content": "up?"}]


def test_columns_in_the_place_of_the_datas_are_said():
    said = []
    found = applied(lambda of: {"prompt": "x", "n": str(of["n"])}, say=said.append)
    assert found["n"][:] == ["1", "2", "3", "4"]
    assert said == ["task: 'mine' makes its own n in the place of the data's."]


def test_blocks_are_the_rows_one_by_one():
    rows = datasets.Dataset.from_dict({"i": range(2 * READ_AT_ONCE + 7)})
    assert list(_each(rows)) == list(enumerate(rows))


def test_a_task_may_ask_whether_there_is_a_column():
    def row(of):
        try:
            return {"prompt": of["sentence"]}
        except KeyError:
            return {"prompt": of.get("text", "none")}

    assert applied(row)["prompt"][:] == ["none"] * 4


def raises(of):
    return {"prompt": of["n"][0]}


def leaves(of):
    sys.exit("enough")


WRONG = {
    "column of the data": (lambda of: {"prompt": of["wrd"]}, "asks for the column 'wrd', which the data do not have; they "
                           "have: word, n. A task may take the names of columns in task.arguments. Did you mean 'word'?"),
    "key of its own": (lambda of: {"prompt": {}["no"]}, "raised KeyError: 'no' at "),
    "raised": (raises, f"raised TypeError: 'int' object is not subscriptable at {__file__}:"
               f"{raises.__code__.co_firstlineno + 1} of row 0."),
    "left": (leaves, "raised SystemExit: enough at "),
    "other keys": (lambda of: {"prompt": "x"} | ({"a": 1} if of["n"] == 3 else {}), "makes the columns prompt, a of row 2 and "
                   "prompt of row 0, expected the same of every row"),
    "no dictionary": (lambda of: "x", "makes str of row 0, expected a dictionary with a 'prompt', or None"),
    "no prompt": (lambda of: {"text": "x"}, "makes columns 'text' of row 0"),
    "a number": (lambda of: {"prompt": 3}, "makes the prompt of row 0: 3, expected a text or a list of messages"),
    "a target": (lambda of: {"prompt": "x", "target": of["n"]}, "makes the target 1 of row 0, expected a text"),
    "a role": (lambda of: {"prompt": [{"role": "usr", "content": "x"}]}, "the prompt of row 0: a message of the role 'usr', "
               "expected one of system, developer"),
    "no content": (lambda of: {"prompt": [{"role": "user"}]}, "the prompt of row 0: a message whose content is None"),
    "no messages": (lambda of: {"prompt": ["x"]}, "the prompt of row 0: 'x' among its messages"),
    "both kinds": (lambda of: {"prompt": "x" if of["n"] > 1 else MESSAGES}, "the column 'prompt' that 'mine' makes of the "
                   "rows is no column of a table, whose values are all of one type"),
    "types": (lambda of: {"prompt": "x", "y": "z" if of["n"] > 1 else 1}, "the column 'y' that 'mine' makes"),
    "things": (lambda of: {"prompt": "x", "y": object()}, "the column 'y' that 'mine' makes"),
    "own": (lambda of: {"prompt": "x", "completions": "y"}, "makes a column 'completions', which is what metrics"),
    "name": (lambda of: {"prompt": "x", 3: "y"}, "makes a column of the name 3, expected a text"),
    "nothing": (lambda of: None, "data.source.path: the task 'mine' makes no prompt of any of the 4 rows."),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_of_a_row_is_one_sentence(mistake):
    row, said = WRONG[mistake]
    assert said in complaint(row)


PARTS = {
    "row": ({"row": "x"}, "its row is str, expected a function"),
    "metrics": ({"metrics": [len]}, "its metrics are list, expected a dictionary"),
    "metric": ({"metrics": {"a": 3}}, "its metric 'a' is int, expected a function"),
    "corpus": ({"corpus": chrf()}, "its corpus is no tuple"),
    "reward": ({"reward": "rouge_l"}, "its reward is str, expected a function"),
    "passes": ({"metrics": {"exact": len}, "passes": ("exat",)}, "got 'exat', expected a tuple of names of its metrics: "
               "exact. Did you mean 'exact'?"),
    "a text": ({"metrics": {"exact": len}, "passes": "exact"}, "got 'exact', expected a tuple"),
    "unseen": ({"metrics": {"a\n": len}}, "a figure has the name 'a\\n'"),
    "none": ({"metrics": {3: len}}, "a figure has the name 3"),
} | {
    name: ({"metrics": {name: len}}, f"a figure has the name '{name}', which begins or ends as")
    for name in ("greedy_x", "best_of_2_x", "reference_x", "base_x", "x_se", "x_low", "x_high", "x_pass_2")
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_task_of_wrong_parts_is_refused_where_it_is_made(part):
    given, said = PARTS[part]
    made: Any = object.__new__(Task)  # past the types, which are checked in tests alone
    for name, value in {"metrics": {}, "corpus": (), "reward": None, "passes": (), "row": shout, **given}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(UserError) as error:
        made.__post_init__()
    assert said in str(error.value)


def test_names_that_are_free():
    names = "greedy", "base", "pass_rate", "selow", "recall/not good", "größe", "based"
    assert [*Task(row=shout, metrics=dict.fromkeys(names, len)).metrics] == [*names]


MINE = ["task=python", "task.function=my_task.TASK"]
CHOICE = ["data/prompt=whole", "pretrain/objective=target", "tokenizer=bpe"]


def config_of(*overrides):
    return compose([*CHOICE, *overrides], Config)


@pytest.fixture
def files(tmp_path):
    """Three files of words, with the names of all their rows."""
    for name, count in {"train": 40, "held": 6, "test": 4}.items():
        rows = [{"word": f"{name}{i}", "n": i} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_task.py").write_text(
        "from kljax.tasks import Task\n\n\ndef row(of):\n    word = of['word']\n"
        "    return {'prompt': 'shout ' + word, 'target': word.upper()} if of['n'] != 3 else None\n\n\n"
        "TASK = Task(row=row)\nNUMBER = 3\n\n\ndef make(column, upper=True):\n    return Task(row=row) if upper else None\n\n\n"
        "def fails():\n    return [][0]\n"
    )
    yield ["data/source=text", f"data.source.path={tmp_path}/train.jsonl"]
    sys.modules.pop("my_task", None)


def test_files_of_their_own_go_through_the_task_and_the_parts_are_disjoint(files, tmp_path):
    others = [f"data.source.held_out_path={tmp_path}/held.jsonl", f"data.source.test_path={tmp_path}/test.jsonl"]
    config, said = config_of(*MINE, *files, *others, "data.prompt_fraction=0.25"), []
    splits = _splits(config, task_of(config), said.append)
    words = {name: set(getattr(splits, name)["target"]) for name in ("train", "prompts", "held_out", "test")}
    assert words["held_out"] == {f"HELD{i}" for i in range(6) if i != 3}
    assert words["test"] == {f"TEST{i}" for i in range(4) if i != 3}
    assert len(words["prompts"]) == 10 and not words["train"] & words["prompts"]
    assert words["train"] | words["prompts"] == {f"TRAIN{i}" for i in range(40) if i != 3}
    assert splits.column == "prompt" and len(said) == 3


def test_a_share_is_of_the_rows_that_the_task_makes(files):
    config = config_of(*MINE, *files, "data.share=[0.0,0.5]", "data.prompt_fraction=0.25", "data.held_out_fraction=0.25")
    splits = _splits(config, task_of(config), silent)
    assert [len(part) for part in (splits.train, splits.prompts, splits.held_out)] == [10, 5, 5]


def test_a_target_goes_with_its_prompt_however_prompts_are_shortened(files):
    from kljax.data import tokenizers

    config = config_of(*MINE, *files, "tokenizer.vocab_size=262")
    splits = _splits(config, task_of(config), silent)
    tokenizer = tokenizers.build(config.tokenizer, splits.train["prompt"][:], tokenizers.SPECIAL)
    whole = prompt_rows(tokenizer, splits.train, config.data.prompt, 0, splits.column)
    short = config_of(*MINE, *files, "data.prompt.max_tokens=2", "data.prompt.too_long=cut").data.prompt
    cut = prompt_rows(tokenizer, splits.train, short, 0, splits.column)
    assert cut.mask.sum(axis=1).max() <= 3 < whole.mask.sum(axis=1).max()
    assert cut.rows["target"][:] == whole.rows["target"][:]
    lengths = whole.mask.sum(axis=1)
    short = config_of(*MINE, *files, f"data.prompt.max_tokens={lengths.max() - 2}", "data.prompt.too_long=drop").data.prompt
    left = prompt_rows(tokenizer, splits.train, short, 0, splits.column)
    kept = [target for target, length in zip(whole.rows["target"], lengths, strict=True) if length < lengths.max()]
    assert left.rows["target"][:] == kept and 0 < len(kept) < len(lengths)


def test_a_column_of_none_alone_is_that_of_another_file(files, tmp_path):
    """A held-out file without answers, beside training rows with them."""
    config = config_of(*MINE, *files, f"data.source.held_out_path={tmp_path}/held.jsonl")
    answered = lambda of: {"prompt": of["word"], "target": of["word"].upper() if of["word"].startswith("t") else None}  # noqa: E731
    splits = load_splits(config.data, task=lambda rows, field: apply(Task(row=answered), "mine", rows, field, silent))
    assert splits.held_out["target"][:] == [None] * 6


def test_sources_that_are_made_have_a_task_too():
    config = config_of("data.source.sentences=50", "task=words", "task.arguments.question=text", "task.arguments.answer=text")
    splits = _splits(config, task_of(config), silent)
    assert all(row["prompt"] == f"Answer in a few words. {row['target']}" for row in splits.held_out)
    questions = config_of("data/source=questions", "task=words")
    found = _splits(questions, task_of(questions), silent)
    asked = found.train["prompt"][:] + found.prompts["prompt"][:] + found.held_out["prompt"][:]
    assert len(asked) == len(set(asked)) > 300


MISTAKES = {
    "no built-in task 'summarization' of this kind, expected one of sentiment, summarisation, translation, numbers, words, or "
    "a dotted path to your own. Did you mean 'summarisation'?": ["task=summarisation", "task.function=summarization"],
    "task.function: module 'my_task' has no task 'TASC'. Did you mean 'TASK'?": ["task.function=my_task.TASC"],
    "task.function: module 'my_task' has no task 'NUMBER'": ["task.function=my_task.NUMBER"],
    "task.function: cannot import 'my_tsk' (ModuleNotFoundError": ["task.function=my_tsk.TASK"],
    "task.arguments: 'my_task.TASK' is a Task and takes none; expected {}.": ["+task.arguments.column=word"],
    "task.arguments: missing a required argument: 'column' for 'my_task.make', which takes column, upper": [
        "task.function=my_task.make"],
    "task.arguments: got an unexpected keyword argument 'colum' for 'my_task.make'": [
        "task.function=my_task.make", "+task.arguments.column=a", "+task.arguments.colum=b"],
    "task.function: 'my_task.make' returned NoneType, expected a kljax.tasks.Task": [
        "task.function=my_task.make", "+task.arguments.column=a", "+task.arguments.upper=false"],
    "task.function: 'my_task.fails' raised IndexError: list index out of range at ": ["task.function=my_task.fails"],
    "task.arguments.prompt: got 'Say it', expected a text with {text} in it": ["task=words", "task.arguments.prompt=Say it"],
    "task.arguments.names: got ['one'], expected two": ["task=sentiment", "task.arguments.names=[one]"],
    "task.arguments.threshold: got 3.0, which divides two": ["task=sentiment", "task.arguments.threshold=3.0",
                                                           "task.arguments.names=[a,b,c]"],
    "asks for the column 'question', which the data do not have; they have: word, n": ["task=words"],
    "task.arguments: column 'n' holds 0, expected a text": ["task=words", "task.arguments={question: n, answer: word, "
                                                            "prompt: '{text}'}"],
    "task.arguments: column 'n' holds 2, expected one of negative, positive, or its place from 0; of numbers give "
    "task.arguments.threshold. It is row 2.": ["task=sentiment", "task.arguments.label=n", "task.arguments.text=word"],
}  # fmt: skip


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_of_the_config_is_one_sentence(files, said):
    own = MINE if not MISTAKES[said][0].startswith("task=") else []
    config = config_of(*own, *files, *MISTAKES[said])
    with pytest.raises(UserError) as error:
        _splits(config, task_of(config), silent)
    assert said in str(error.value)


REFUSED = {
    "reward.task: it is the task's own reward, and there is no task": ["reward=task"],
    "data.prompt: got prefix, which cuts a text": ["task=words", "data/prompt=prefix"],
    "data.source.column: got 'text', but the task makes the prompts": ["task=words", "data/source=text", "data.source.path=x",
                                                                       "data.source.column=text"],
    "data.prompt.words: got 5, which would cut the prompts that the task makes": ["task=words", "data/prompt=chat",
                                                                                  "data.prompt.words=5"],
    "pretrain.objective: got next_token, which passes over a task's targets": ["task=words", "pretrain/objective=next_token"],
    "pretrain.objective.column: got 'answer', but the task makes the targets": [
        "task=words", "pretrain.objective.column=answer"],
    "task.readings": ["task=words", "task.readings=[beam]"],
    "task.resamples": ["task=words", "task.resamples=0"],
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_passes_over_a_task_is_refused(said):
    with pytest.raises(UserError) as error:
        config_of(*REFUSED[said])
    assert said in str(error.value)


def test_a_threshold_divides_numbers():
    config = config_of("task=sentiment", "task.arguments.threshold=2.5", "task.arguments={text: word, label: n}")
    found = apply(task_of(config), "sentiment", datasets.Dataset.from_list(ROWS), "f", silent)
    assert found["target"][:] == ["negative", "positive"]  # n is 1 and 3; two rows have no text

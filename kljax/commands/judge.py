"""A blinded page on which people judge the completions of two policies, and what came back.

kljax judge a=runs/grammar/default b=reference out=judging    # writes judging/judge.html, and the key that stays with you
kljax judge score=answers out=judging    # win rate, agreement, bias: the files that judges have saved lie in answers
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kljax.command_line import importing, launch
from kljax.config import JudgeConfig, TextTask
from kljax.errors import UserError

if TYPE_CHECKING:
    from kljax.analysis.judging.sources import Asked

OF_A_PAGE = ("a", "b", "mode", "prompts", "repeats", "about", "question", "criteria")
"""Keys that say what page is written: a score has them from the page's key."""
PROMPTS, REPEATS, SEED = 50, 0.1, 0
"""Where nothing is said."""


def main() -> None:
    """Answer the command line."""
    launch(run, JudgeConfig, config_name="judge")


def run(config: JudgeConfig) -> None:
    if config.score is None:
        _write_page(config)
    else:
        _score(config)


def _write_page(config: JudgeConfig) -> None:
    if config.a is None or config.b is None:
        missing = "a" if config.a is None else "b"
        raise UserError(
            f"{missing}: must be given, as in a=runs/x b=reference; to score answers that came back: score=FILES out=judging."
        )
    from kljax.analysis.judging import sources
    from kljax.progress import say

    a, b = sources.named(config.a, config.b)  # refuses what is no run, before the imports
    folder = _folder(config)
    with importing():
        from kljax.analysis import agreement
        from kljax.analysis.judging import files
        from kljax.analysis.judging.design import PAIRWISE, design, left_out
        from kljax.analysis.judging.questions import QUESTIONS
        from kljax.runs.setup import use_compilation_cache

    use_compilation_cache(config.compilation_cache)
    first, second = sources.read(a, b)
    mode, about = config.mode or PAIRWISE, QUESTIONS[config.about or _task_of(a, b)]
    made = design(
        first,
        second,
        mode=mode,
        prompts=config.prompts or PROMPTS,
        repeats=REPEATS if config.repeats is None else config.repeats,
        seed=config.seed or SEED,
        question=_question(config, about.of_two if mode == PAIRWISE else about.of_one),
        criteria=_criteria(config, about.criteria),
    )
    page = files.write_page(made, folder)
    for line in (f"a: {first.how}", f"b: {second.how}", *left_out(first, second, made)):
        say(line)
    if config.prompts is not None and len(made.pairs) < config.prompts:
        more = f"kljax analyze run=… prompts={config.prompts} completes more of a run's"
        say(f"prompts={config.prompts}, and a and b have {len(made.pairs)} in common; each is used ({more}).")
    again = sum(one.again is not None for one in made.items)
    say(f"{page}: {len(made.items)} items, of which {again} are shown again. Give it to judges, and keep {folder / files.KEY}.")
    if mode == PAIRWISE:  # ratings have no win rate to plan for
        differing = sum(not pair.is_identical for pair in made.pairs)
        half, needed = agreement.wilson(differing / 2, differing), agreement.pairs_needed(0.1)
        reach = half.high - half.value
        say(f"An interval of the win rate will reach about ±{reach:.0%} with {differing} pairs; ±10% takes {needed}.")
    say(f"When their files are back, in a folder: kljax judge score=FOLDER out={folder}")


def _task_of(a: "Asked", b: "Asked") -> str:
    """The task of the first of the two that is a run, if people are asked about it; or continuation."""
    from kljax.analysis.judging.questions import OF_TASKS
    from kljax.runs.config_file import read_run_config

    tasks = [read_run_config(one.path).task for one in (a, b) if one.step is not None]
    found = next((task.function for task in tasks if isinstance(task, TextTask)), None)
    return found if found in OF_TASKS else "continuation"


def _question(config: JudgeConfig, usual: str) -> str:
    if config.question is None:
        return usual
    if not (question := config.question.strip()):
        raise UserError("question: got an empty text, expected the question that judges answer.")
    return question


def _criteria(config: JudgeConfig, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the config, or the task's where its question is asked."""
    if config.criteria is not None:
        return tuple(config.criteria)
    return usual if config.question is None or config.about is not None else ()


def _score(config: JudgeConfig) -> None:
    for key in OF_A_PAGE:
        if getattr(config, key) is not None:
            raise UserError(f"{key}: got it beside score=…, which has it from the page's key; leave one of the two out.")
    folder = _folder(config)
    with importing():
        from kljax.analysis.judging import files, report, verdict

    made = files.read_key(folder)
    answers = files.read_answers(files.answer_files(config.score or []), made)
    result, said = verdict.verdict(made, answers, config.seed or SEED), verdict.unfinished(made, answers)
    report.show(result, said)
    files.write_result(result, report.text(result, said), folder)
    from kljax.progress import say

    say(f"Written to {folder / files.RESULT} and {folder / files.TABLE}")


def _folder(config: JudgeConfig) -> Path:
    folder = Path(config.out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out: '{config.out}' is a file, expected a folder.")
    return folder

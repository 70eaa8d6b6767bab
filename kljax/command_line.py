"""From a command line to a validated config to a script, and from a mistake to one sentence and exit code 2.

Hydra composes the files of `configs/` with the overrides given, pydantic validates, every job of a sweep before the first
one starts.

Nothing up to here needs JAX, which with all that is built on it takes seconds to import: a mistake is answered before. So
scripts import what they run inside the function that runs it (`importing`), and what is imported here needs no JAX either.
"""

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kljax import __version__
from kljax.config.derived import with_widths
from kljax.config.mistakes import leaf_keys, unknown_key
from kljax.config.validation import validate
from kljax.disk import of_the_disk_as_well
from kljax.errors import MISTAKE, UserError, did_you_mean
from kljax.interrupt import INTERRUPTED, Interrupted, StopRequest, end_process, sigterm_as_ctrl_c
from kljax.overrides import jobs as sweeps
from kljax.overrides.bounds import check_files, check_overrides, unreadable
from kljax.overrides.environment import named, variables
from kljax.overrides.folders import CONFIGS, check_experiment, check_shadowed, check_values, find_own_configs
from kljax.overrides.help import asked_about, page, show
from kljax.overrides.sentences import sentence
from kljax.overrides.variants import Job, distinct, label
from kljax.progress import console

NOT_OURS = (HydraException, OmegaConfBaseException, yaml.YAMLError)  # what Hydra lets through

T = TypeVar("T")


def launch(script: Callable[[T], None], schema: type[T], config_name: str = "config") -> None:
    """Run `script` with the config that the command line asks for, once or (with -m) for every combination.

    Ends the process: 0 when done, 2 after a mistake of the user's, 130 after Ctrl-C or SIGTERM, which end a sweep, too.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: they are reported here
    mistakes = 0

    with reporting_mistakes(schema):
        parser = get_args_parser()
        parser.prog = sys.argv[0]
        for action in parser._actions:
            if "--version" in action.option_strings:
                vars(action)["version"] = f"kljax {__version__}, with Hydra {hydra.__version__}"
        _check_options(parser, sys.argv[1:], schema)
        arguments = parser.parse_intermixed_args()  # --help KEY may stand at the end of a command line
        _check_arguments(arguments)
        search, say = arguments.config_dir, cache(_say)  # nothing twice
        find_own_configs()
        check_overrides(arguments.overrides)
        check_files(search)
        if arguments.help and (keys := asked_about(arguments.overrides)[0]):
            _explain(keys, arguments, schema, config_name)
            return
        # of Hydra, and needs no value
        asks = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
        asked = [] if asks else sweeps.expand(arguments.overrides, arguments.multirun, search)
        jobs = [_job(overrides, schema, config_name, search, say) for overrides in asked]
        configs, notes = distinct(jobs)
        for note in notes:
            say(note)
        if _is_plain(arguments):
            with named(jobs[0].environment):
                script(configs[0])  # composed already, and Hydra would do no more for it
            return
        lines = list(sweeps.lines(asked, console.width))
        if arguments.multirun and sweeps.seed_varies(asked):
            say(sweeps.SEEDS)

        @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
        def run_one(composed: DictConfig) -> None:
            nonlocal mistakes
            try:
                job, number = _read(composed, HydraConfig.get().overrides.task, schema), _number(arguments.multirun)
                if number < len(jobs) and jobs[number] == job:  # not where another sweeper than Hydra's own chooses jobs
                    job = replace(job, config=configs[number])
                    if arguments.multirun:
                        _say(lines[number])
                with of_the_disk_as_well(), named(job.environment):
                    script(job.config)
            except UserError as error:  # the other jobs of a sweep go on
                mistakes += 1
                _complain(str(error))

        run_one()
    if mistakes:
        sys.exit(MISTAKE)


@contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector from what is imported within, which stays: now, a fifth of the time, and later.

    Ctrl-C waits until it is imported: in the midst of a library's C++ it would be a crash.
    """
    gc.disable()
    try:
        with StopRequest() as stop:
            yield
        if stop.asked:
            raise KeyboardInterrupt
    finally:
        if not gc.get_freeze_count():  # a sweep's next job imports nothing, and would freeze what the one before has left
            gc.freeze()
        gc.enable()


@contextmanager
def reporting_mistakes(schema: type | None = None) -> Iterator[None]:
    """One sentence and exit code 2 for a mistake of the user's or a disk that takes nothing; bugs keep their traceback.

    130 after Ctrl-C or SIGTERM.
    """
    # transformers would advise everyone to install PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        with sigterm_as_ctrl_c(), of_the_disk_as_well():
            yield
    except UserError as error:
        sys.exit(_complain(str(error)))
    except NOT_OURS as error:
        sys.exit(_complain(sentence(error, schema, sys.argv[1:])))
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'Interrupted.'}", file=sys.stderr)
        if not isinstance(interrupt, Interrupted):  # between two steps nothing is at work
            end_process(INTERRUPTED)
        sys.exit(INTERRUPTED)


def compose(overrides: Sequence[str], schema: type[T], config_name: str = "config", search: str | None = None) -> T:
    """The validated config of these overrides, as a script would get it. `search`: a directory of configs beside ours."""
    check_files(search)
    return _job(overrides, schema, config_name, search).config


def variant(overrides: Sequence[str]) -> str:
    """The part of a run directory's name that the overrides make; `default` without any."""
    return label(overrides).text


def _job(
    overrides: Sequence[str],
    schema: type,
    config_name: str,
    search: str | None,
    say: Callable[[str], None] | None = None,
) -> Job:
    find_own_configs()
    check_overrides(overrides)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        try:
            composed = _composed(overrides, config_name, search)
            choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
            if isinstance(choices.get("experiment"), str):
                check_experiment(choices["experiment"], search)
            job = _read(_without_hydra(composed), overrides, schema)
        except (*NOT_OURS, ValueError, OSError) as error:
            raise UserError(_explained(error, schema, overrides, search)) from None
    chosen = {group: [option] for group, option in choices.items() if isinstance(option, str)}
    chosen |= {"reward": list(getattr(job.config, "reward", ()))}  # a list of options is no choice to Hydra
    notes = [*check_values(config_name, search), *check_shadowed(chosen, _keys(overrides), search)]
    if say is not None:
        for note in notes:
            say(note)
    return job


def _composed(overrides: Sequence[str], config_name: str, search: str | None) -> DictConfig:
    """Composed by Hydra, its own values included; it must be told before where configs are."""
    more = [] if search is None else [f"hydra.searchpath=['file://{Path(search).absolute()}']"]
    return hydra.compose(config_name, overrides=[*overrides, *more], return_hydra_config=True)


def _without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


def _explain(keys: Sequence[str], arguments: argparse.Namespace, schema: type, config_name: str) -> None:
    """Print what these keys mean and what they are with the overrides, which need not be valid or whole."""
    search, overrides = arguments.config_dir, asked_about(arguments.overrides)[1]
    for option in ("run", "multirun", "cfg", "info", "hydra_help", "resolve"):
        if getattr(arguments, option):
            raise UserError(f"--help: got it with {keys[0]} and --{option.replace('_', '-')}, expected one of the two.")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        try:
            composed = _without_hydra(_composed(overrides, config_name, search))
            values: Any = OmegaConf.to_container(composed, resolve=True)
        except (*NOT_OURS, ValueError, OSError) as error:
            raise UserError(_explained(error, schema, overrides, search)) from None
    show(page(keys, schema, with_widths(values), search), console)
    try:
        validate(values, schema)
    except UserError as error:  # of what is given; what lacks yet is no mistake
        if str(error).startswith(tuple(f"{key.replace('/', '.')}:" for key in _keys(overrides))):
            _say(f"Not valid as given: {error}")


def _explained(error: Exception, schema: type, overrides: Sequence[str], search: str | None) -> str:
    try:
        if isinstance(error, NOT_OURS) or not isinstance(error, OSError):
            return sentence(error, schema, overrides, search)
        return unreadable(error)
    except OSError as other:  # on the way to a name that is near
        return unreadable(other)


def _read(composed: DictConfig, overrides: Sequence[str], schema: type) -> Job:
    """The composed config, validated, and the label of its run directory."""
    values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    _choose_length(values, _keys(overrides))
    made = None
    if isinstance(values.get("run"), dict) and values["run"].get("variant") == "auto":
        made = label(overrides)
        values["run"]["variant"] = made.text
    return Job(validate(values, schema), made, variables(composed))


def _keys(overrides: Sequence[str]) -> set[str]:
    """The keys and groups that are given a value."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group for override in parsed if not override.is_delete()}


def _choose_length(values: dict[str, Any], given: set[str]) -> None:
    """Put what the command line gives of steps and epochs before what an experiment does; both at once are refused."""
    if "steps" not in given or values.get("epochs") is None:
        return
    if "epochs" in given:
        raise UserError(
            f"epochs: got {values['epochs']} beside steps={values.get('steps')}, expected one of the two: steps follow from "
            "epochs, prompts and rollout.prompts."
        )
    values["epochs"] = None


def _number(multirun: bool) -> int:
    """Of the job that Hydra runs now, from 0."""
    return HydraConfig.get().job.num if multirun else 0


def _is_plain(arguments: argparse.Namespace) -> bool:
    """A single job that asks Hydra for nothing: no --help, no --cfg, no -m, no hydra.…=…."""
    asked = {name for name, value in vars(arguments).items() if value} - {"overrides"}
    return not asked and not any(override.lstrip("+~").startswith("hydra") for override in arguments.overrides)


def _check_options(parser: argparse.ArgumentParser, given: Sequence[str], schema: type) -> None:
    """Refuse `--key value`, as other programs take it, and what is no option."""
    for one in given:
        option = one.partition("=")[0]
        if not option.startswith("-") or any(known.startswith(option) for known in parser._option_string_actions):
            continue
        key, known = option.lstrip("-").replace("-", "_"), list(leaf_keys(schema))
        answer = f": {key}=…" if key in known else f".{unknown_key(key, known).partition('no such config key.')[2]}"
        near = did_you_mean(option, parser._option_string_actions)
        raise UserError(
            f"{option}: no such option; values are given as key=value, without dashes{f'.{near}' if near else answer}"
        )


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what would be passed over or cannot be had together."""
    given = [option for option in ("run", "multirun", "cfg", "info") if getattr(arguments, option)]
    if len(given) > 1:
        raise UserError(f"--{given[0]}: got it together with --{given[1]}, expected one of the two.")
    if arguments.resolve and not arguments.cfg and not arguments.help:
        raise UserError("--resolve: got it without --cfg, which it belongs to, as in --cfg job --resolve.")
    if arguments.shell_completion:
        given = " ".join(arguments.overrides)
        if not re.fullmatch("(install|uninstall|query)=(bash|zsh|fish)", given):
            raise UserError(f"--shell-completion: got {given!r}, expected install=… or uninstall=… with bash, zsh or fish.")
        if given.startswith("query=") and "COMP_LINE" not in os.environ:
            raise UserError(f"--shell-completion: {given} is what a shell asks, with what is typed in COMP_LINE.")
    for option in ("config_path", "config_name"):
        if getattr(arguments, option):
            raise UserError(
                f"--{option.replace('_', '-')}: got {getattr(arguments, option)!r}, expected none: configs are kljax's. For "
                "files of your own beside them make a folder configs/ here, or give --config-dir."
            )
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir: got {arguments.config_dir!r}, expected a directory with folders such as experiment/.")


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


def _complain(line: str) -> int:
    print(f"kljax: {line}", file=sys.stderr)
    return MISTAKE

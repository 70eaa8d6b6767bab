"""From a command line to a validated config to a script, and from a mistake to one sentence and exit code 2.

Hydra composes the files of `configs/` with the overrides given, pydantic validates, every job of a sweep before the first
one starts.
"""

import argparse
import gc
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kljax.config import RunConfig
from kljax.errors import UserError, did_you_mean
from kljax.validation import leaf_keys, validate

CONFIGS = Path(__file__).parents[1] / "configs"
MISTAKE, INTERRUPTED = 2, 130  # exit codes
LONGEST_VARIANT = 120  # characters
NOT_IN_VARIANT = ("run", "hydra", "experiment", "name")

T = TypeVar("T")


def launch(script: Callable[[T], None], schema: type[T], config_name: str = "config") -> None:
    """Run `script` with the config that the command line asks for, once or (with -m) for every combination.

    Ends the process: 0 when done, 2 after a mistake of the user's, 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: they are reported here
    mistakes = 0

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    def run_one(composed: DictConfig) -> None:
        nonlocal mistakes
        try:
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
            script(_validated(values, HydraConfig.get().overrides.task, schema))
        except UserError as error:  # the other jobs of a sweep go on
            mistakes += 1
            _complain(str(error))

    with reporting_mistakes(schema):
        gc.freeze()  # what the imports made stays; without this every collection looks at all of it again
        arguments = get_args_parser().parse_args()
        _check_arguments(arguments)
        overrides, search = arguments.overrides, arguments.config_dir
        jobs = [compose(job, schema, config_name, search) for job in _jobs(overrides, arguments.multirun, config_name, search)]
        _check_variants(jobs)
        if _is_plain(arguments):
            script(jobs[0])  # composed already, and Hydra would do no more for it
        else:
            run_one()
    if mistakes:
        sys.exit(MISTAKE)


@contextmanager
def reporting_mistakes(schema: type | None = None) -> Iterator[None]:
    """One sentence and exit code 2 for a mistake of the user's, 130 after Ctrl-C; bugs keep their traceback."""
    # transformers would advise everyone to install PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        yield
    except UserError as error:
        sys.exit(_complain(str(error)))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_complain(_hydra_sentence(error, schema)))
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Interrupted.'}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def compose(overrides: Sequence[str], schema: type[T], config_name: str = "config", search: str | None = None) -> T:
    """The validated config of these overrides, as a script would get it. `search`: a directory of configs beside ours."""
    more = [] if search is None else [f"hydra.searchpath=['file://{Path(search).absolute()}']"]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        try:
            composed = hydra.compose(config_name, overrides=[*overrides, *more])
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(_hydra_sentence(error, schema)) from None
    return _validated(values, overrides, schema)


def variant(overrides: Sequence[str]) -> str:
    """The part of a run directory's name that the overrides make; `default` without any."""
    kept = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group.replace("/", ".")
        if key.split(".")[0] not in NOT_IN_VARIANT:
            value = override.get_value_element_as_str()
            # Neither '=' nor ',': the path must pass through a shell and through Hydra (run=…) as it is.
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", value)
            # Two values that differ in what was replaced are two variants.
            mark = "" if plain == value else f"-{hashlib.sha256(value.encode()).hexdigest()[:4]}"
            kept.append(f"{key}-{plain}".strip("_") + mark)
    name = "+".join(sorted(kept)) or "default"
    if len(name) <= LONGEST_VARIANT:
        return name
    return f"{name[:LONGEST_VARIANT]}+{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # a file name has its limits


def _validated(values: Any, overrides: Sequence[str], schema: type[T]) -> T:
    if isinstance(values.get("run"), dict) and values["run"].get("variant") == "auto":
        values["run"]["variant"] = variant(overrides)
    return validate(values, schema)


def _is_plain(arguments: argparse.Namespace) -> bool:
    """A single job that asks Hydra for nothing: no --help, no --cfg, no -m, no hydra.…=…."""
    asked = {name for name, value in vars(arguments).items() if value} - {"overrides"}
    return not asked and not any(override.lstrip("+~").startswith("hydra") for override in arguments.overrides)


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what would be passed over, and name a sweeper or launcher that is not installed."""
    for option in ("config_path", "config_name"):
        if getattr(arguments, option):
            raise UserError(
                f"--{option.replace('_', '-')}: got {getattr(arguments, option)!r}, expected none: configs are kljax's. For "
                "files of your own beside them give --config-dir."
            )
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir: got {arguments.config_dir!r}, expected a directory with folders such as experiment/.")


def _check_variants(jobs: Sequence[Any]) -> None:
    """Refuse two different jobs that would be one run directory, before the first one starts."""
    seen: dict[tuple[str, str, str], Any] = {}
    for job in jobs:
        if not isinstance(getattr(job, "run", None), RunConfig):
            return
        place = job.run.root, job.name, job.run.variant
        if seen.setdefault(place, job) != job:
            raise UserError(
                f"run.variant: two different jobs of this sweep would both be {'/'.join(place)}; expected a run directory for "
                "each: leave run.variant=auto, or give each a name."
            )


def _jobs(overrides: Sequence[str], multirun: bool, config_name: str, search: str | None) -> list[list[str]]:
    if not multirun:
        return [list(overrides)]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        loader: Any = GlobalHydra.instance().config_loader()  # knows what glob(…) can match
        if search is not None:
            loader.config_search_path.append("main", f"file://{Path(search).absolute()}")
            loader = ConfigLoaderImpl(loader.config_search_path)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        return [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def _hydra_sentence(error: Exception, schema: type | None) -> str:
    """Hydra's message in one line, with the nearest right name."""
    text = str(error)
    known = list(leaf_keys(schema)) if schema else []
    if found := re.search(r"Could not (?:override|append) '([^']+)'", text):
        key = found[1].lstrip("+")
        if key.startswith("reward.") and key.count(".") == 1:
            return f"{key}: no such reward is chosen; to add one, write +{key}=…"
        return _not_here(key) if key in known else f"{key}: no such config key.{did_you_mean(key, known)}"
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        group, option = found[1], found[2]
        options = _options(group)
        if group.startswith("hydra/"):
            kind = group.removeprefix("hydra/")
            package = f"hydra-{option.replace('_', '-')}-{kind}"
            return f"{group}: got '{option}', which is not part of Hydra, and no package {package} is installed."
        return f"{group}: no option '{option}', expected one of {', '.join(options)}.{did_you_mean(option, options)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing, and it has no default; give it as {error.full_key}=…"
    if isinstance(error, OverrideParseException):
        reason = text.splitlines()[0]
        key, _, value = str(error.override).partition("=")
        if re.search(r"[=:{}\[\], ]", value) and not re.match(r"['\"\[{]", value):
            quoted = f"'{key}=\"{value}\"'"
            return f"{error.override}: cannot be read ({reason}); quote the value for Hydra and for the shell: {quoted}."
        return f"{error.override}: cannot be read as key=value ({reason}); quote lists for the shell, as in 'key=[1,2]'."
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    return " ".join(str(cause).split())


def _not_here(key: str) -> str:
    """A key that the schema knows, but not for the part that is chosen now."""
    for part in (key, key.rpartition(".")[0]):
        group = part.replace(".", "/")
        if part and _options(group):
            choice = f"choose the part as a whole, with {group}=… (one of {', '.join(_options(group))})"
            return f"{key}: not a key of the present choice of {part}; {choice}, or add it with +{key}=…"
    return f"{key}: not a key of the present choice; add it with +{key}=…"


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def _complain(sentence: str) -> int:
    print(f"kljax: {sentence}", file=sys.stderr)
    return MISTAKE

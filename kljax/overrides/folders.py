"""Where configs are looked for: kljax's own first, then `configs` of the current folder, then --config-dir."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from kljax.errors import UserError

_PACKAGED = Path(__file__).parents[1] / "configs"  # in a wheel; a checkout has them beside the package alone
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
OF_ONES_OWN = "configs"  # a folder of the current one


class OwnConfigs(SearchPathPlugin):
    """Tells Hydra of the current folder's configs, in plain runs, sweeps, --help and --cfg alike."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder behind kljax's."""
        if (folder := own_folder()) is not None:
            search_path.append("current folder", f"file://{folder}")


def find_own_configs() -> None:
    """Make Hydra look in the current folder, too; a second call changes nothing."""
    Plugins.instance().register(OwnConfigs)


def own_folder() -> Path | None:
    """`configs` of the current folder, where there is one and it is not kljax's."""
    folder = Path.cwd() / OF_ONES_OWN
    return folder if folder.is_dir() and folder.resolve() != CONFIGS.resolve() else None


def folders(search: str | None = None) -> list[Path]:
    """All of them, in the order in which they are asked; `search` is --config-dir's."""
    return [CONFIGS, *([own] if (own := own_folder()) is not None else []), *([] if search is None else [Path(search)])]


def options(group: str, search: str | None = None) -> list[str]:
    """The names that `group=` can have."""
    return sorted({file.stem for folder in folders(search) for file in (folder / group).glob("*.yaml")})


def check_shadowed(choices: Mapping[str, Iterable[str]], named: Iterable[str], search: str | None = None) -> list[str]:
    """A sentence for each file of the user's that has the name of one of kljax's, which is what is used.

    `choices` are all options of all groups that the config is made of. Refuses one of a group that the command line has
    `named`: there the user may mean either.
    """
    notes = []
    for group, chosen in choices.items():
        for file in [folder / group / f"{option}.yaml" for option in chosen for folder in folders(search)[1:]]:
            ours = CONFIGS / group / file.name
            if not file.exists() or not ours.exists() or file.read_bytes() == ours.read_bytes():  # a copy is no question
                continue
            if group in named:
                raise UserError(f"{group}: kljax has an option '{file.stem}', and so has {file}; give yours another name.")
            notes.append(f"{file} is not used: {group}={file.stem} is kljax's own. Give yours another name to choose it.")
    return notes


def check_values(name: str, search: str | None = None) -> list[str]:
    """A sentence for each file of the user's that has the name of the one with all values, which is kljax's alone."""
    ours = CONFIGS / f"{name}.yaml"
    found = [file for folder in folders(search)[1:] if (file := folder / ours.name).exists()]
    return [
        f"{file} is not used: the values are those of kljax's own. Make an experiment of what differs (experiment/mine.yaml)."
        for file in found
        if file.read_bytes() != ours.read_bytes()
    ]


def check_experiment(option: str, search: str | None = None) -> None:
    """Refuse an experiment of the user's whose values would be nobody's: no mapping, or none of the whole config."""
    if (CONFIGS / "experiment" / f"{option}.yaml").exists():
        return
    for file in [folder / "experiment" / f"{option}.yaml" for folder in folders(search)[1:]]:
        if not file.exists():
            continue
        text = file.read_text()
        if not isinstance(yaml.safe_load(text), dict):
            raise UserError(f"{file}: expected keys with their values, as in 'steps: 100'.")
        if not re.match(r"(\s*(#.*)?\n)*?#\s*@package\s+_global_\s*\n", text):
            raise UserError(
                f"{file}: expected '# @package _global_' as its first line, without which it changes no value of a run."
            )

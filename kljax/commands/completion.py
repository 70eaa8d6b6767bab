"""Completion of `kljax` in a shell: its commands, and behind one what Hydra knows: groups, their options, keys, own configs.

eval "$(kljax completion bash)"        # in ~/.bashrc
eval "$(kljax completion zsh)"         # in ~/.zshrc, after compinit
(`kljax completion fish`, piped into source, in ~/.config/fish/config.fish)

What the shell is told is to ask kljax itself, so that the answer is of the moment and of the current folder. Hydra's own lines
(-sc install=…) know programs of one word alone.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

from kljax.commands import COMMANDS, start
from kljax.errors import MISTAKE, did_you_mean
from kljax.interrupt import INTERRUPTED

QUERY = "query"
OF_HYDRA = ("train", "pretrain", "analyze", "export", "judge")


@dataclass(frozen=True)
class Shell:
    """The lines that a shell runs to complete, and those that undo it."""

    install: str
    uninstall: str


# What bash takes for a word ends at '=': it is given what stands behind the last one.
BASH = Shell(
    """\
_kljax() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\\n'
    local word=${line##*[[:space:]]}
    COMPREPLY=($(kljax completion query "$line" 2>/dev/null))
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _kljax kljax""",
    "complete -r kljax; unset -f _kljax",
)
ZSH = Shell(
    """\
_kljax() {
    local -a found
    found=(${(f)"$(kljax completion query "$LBUFFER" 2>/dev/null)"})
    if (( $#found )); then compadd -Q -S '' -- $found; else _files; fi
}
compdef _kljax kljax""",
    "compdef -d kljax; unfunction _kljax",
)
FISH = Shell(
    """\
function _kljax
    kljax completion query (commandline -cp | string collect) 2>/dev/null
end
complete -c kljax -a '(_kljax)'""",
    "complete -e -c kljax; functions -e _kljax",
)
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main() -> None:
    """Answer the command line: a shell's name, or (for its lines) query and what is typed so far."""
    given = sys.argv[1:]
    if len(given) == 2 and given[0] == QUERY:
        _query(given[1])
    elif given in (["--help"], ["-h"]):
        print(f"usage: kljax completion [{'|'.join(SHELLS)}]\n\n{str(__doc__).strip()}")
    elif len(given) == 1 and given[0] in SHELLS:
        print(SHELLS[given[0]].install)
    elif len(given) == 2 and given[0] == "uninstall" and given[1] in SHELLS:
        print(SHELLS[given[1]].uninstall)
    else:
        got = " ".join(given) or "nothing"
        near = did_you_mean(got, SHELLS)
        print(f"kljax: completion: got {got}, expected the name of a shell: {', '.join(SHELLS)}.{near}", file=sys.stderr)
        sys.exit(MISTAKE)


def _query(line: str) -> None:
    """Print what the last word of the line can become, one a line: commands behind the first word, behind them Hydra's."""
    words = line.split()
    if line.endswith((" ", "\t")):
        words.append("")
    if len(words) == 2:
        print("\n".join(f"{name} " for name in COMMANDS if name.startswith(words[1])))
    elif len(words) > 2 and words[1] == "completion":
        print("\n".join(f"{name} " for name in SHELLS if name.startswith(words[2])))
    elif len(words) > 2 and words[1] in OF_HYDRA and words[-1].startswith("-"):
        print("\n".join(f"{option} " for option in _options() if option.startswith(words[-1])))
    elif len(words) > 2 and words[1] in OF_HYDRA:
        known = _values(words) if "=" in words[-1] else None
        print("\n".join(_of_hydra(words) if known is None else known))


def _of_hydra(words: list[str]) -> list[str]:
    """Completions by Hydra: groups, options, keys, and the value that a key has. To it a list is a section with numbers."""
    from kljax.overrides.completing import lists

    os.environ["COMP_LINE"] = " ".join(["kljax", *words[2:]])
    sys.argv = [f"kljax {words[1]}", "-sc", "query=fish"]  # which prints one a line
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            start(words[1])
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise  # the others are of a line that Hydra cannot read yet
    of_lists = lists(words[1])
    found = (f"{line[:-1]}=" if line[:-1] in of_lists else line for line in printed.getvalue().splitlines())
    return [line for line in found if line.rpartition(".")[0] not in of_lists]


def _values(words: list[str]) -> list[str] | None:
    """Completions of `key=`, None where Hydra knows."""
    from kljax.command_line import reporting_mistakes
    from kljax.overrides.completing import values

    with reporting_mistakes():
        return values(words[1], words[2:])


def _options() -> list[str]:
    from hydra._internal.utils import get_args_parser

    return sorted(get_args_parser()._option_string_actions)

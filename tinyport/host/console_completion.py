"""Completion scripts for bash, zsh and fish, made from the parser: commands, options and fixed choices."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tinyport.host.console import CommandLine

SHELLS = ("bash", "zsh", "fish")


def completion_script(parser: CommandLine, shell: str) -> str:
    """The script that makes ``shell`` complete the program. ``shell``: one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _tree(parser: CommandLine, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], CommandLine]]:
    """Every command with the words that lead to it, the program itself first."""
    yield path, parser
    for name, command in parser.commands().items():
        yield from _tree(command, (*path, name))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [word for action in parser._actions for word in action.option_strings if action.help != argparse.SUPPRESS]


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """Fixed values of arguments that stand alone, such as the shell of ``completion``."""
    found: list[str] = []
    for action in parser._actions:
        if not action.option_strings and action.choices and not isinstance(action, argparse._SubParsersAction):
            found += [str(choice) for choice in action.choices]
    return found


def _valued(parser: CommandLine) -> dict[str, list[str]]:
    """Options with a value → the values they allow, none when any will do."""
    found: dict[str, list[str]] = {}
    for _, command in _tree(parser):
        for action in command._actions:
            if action.option_strings and action.nargs != 0:
                for word in action.option_strings:
                    found[word] = [str(choice) for choice in action.choices or ()]
    return found


def _words(parser: CommandLine) -> list[str]:
    return [*parser.commands(), *_choices(parser), *_options(parser)]


def _function(parser: CommandLine) -> str:
    return f"_{parser.prog.replace('-', '_')}_complete"


def _bash(parser: CommandLine) -> str:
    name = _function(parser)
    cases = "\n".join(
        f'        "{" ".join(path)}") words="{" ".join(_words(command))}" ;;' for path, command in _tree(parser)
    )
    known = "|".join(f'"{" ".join(path)}"' for path, _ in _tree(parser) if path)
    values = "\n".join(
        f'        {word}) COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$current")); return ;;'
        if choices
        else f'        {word}) COMPREPLY=($(compgen -f -- "$current")); return ;;'
        for word, choices in sorted(_valued(parser).items())
    )
    skipped = "|".join(sorted(_valued(parser))) or "--"
    return f"""# bash completion for {parser.prog}
{name}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" word words=""
    local skip="" longer
    COMPREPLY=()
    case "$previous" in
{values}
    esac
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [ -n "$skip" ]; then skip=""; continue; fi
        case "$word" in
        {skipped}) skip=1; continue ;;
        -*) continue ;;
        esac
        longer="${{path:+$path }}$word"
        case "$longer" in
        {known}) path="$longer" ;;
        esac
    done
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F {name} {parser.prog}
"""


def _zsh(parser: CommandLine) -> str:
    # zsh runs bash's completions when it is asked to; one source is better than two that differ.
    return f"""#compdef {parser.prog}
autoload -U +X bashcompinit && bashcompinit
{_bash(parser)}"""


def _fish(parser: CommandLine) -> str:
    program = parser.prog
    lines = [f"# fish completion for {program}", f"complete -c {program} -f"]
    for path, command in _tree(parser):
        seen = " and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
        deeper = " ".join(command.commands())
        condition = seen or "__fish_use_subcommand"
        if path and deeper:
            condition = f"{seen}; and not __fish_seen_subcommand_from {deeper}"
        for name, summary in command.summaries().items():
            lines.append(f"complete -c {program} -n {_quoted(condition)} -a {name} -d {_quoted(summary)}")
        for choice in _choices(command):
            lines.append(f"complete -c {program} -n {_quoted(seen or 'true')} -a {_quoted(choice)}")
        for action in command._actions:
            if action.help == argparse.SUPPRESS or not action.option_strings:
                continue
            names = " ".join(
                f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in action.option_strings
            )
            value = "" if action.nargs == 0 else " -r"
            if action.choices:
                value = f" -x -a {_quoted(' '.join(str(choice) for choice in action.choices))}"
            about = (action.help or "") % {**vars(action), "prog": program} if action.help else ""
            lines.append(f"complete -c {program} -n {_quoted(seen or 'true')} {names}{value} -d {_quoted(about)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text in fish's single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

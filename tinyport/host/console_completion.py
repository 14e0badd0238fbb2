"""Completion scripts for bash, zsh and fish, made from the parser: commands, options, fixed choices; and what only the
cluster knows, for which they ask the program (``console_candidates``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tinyport.host.console import CommandLine
from tinyport.host.console_candidates import Offers

SHELLS = ("bash", "zsh", "fish")


def completion_script(parser: CommandLine, shell: str, offers: Offers | None = None) -> str:
    """The script that makes ``shell`` complete the program. ``shell``: one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser, offers or {})


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


def _function(parser: CommandLine) -> str:
    return f"_{parser.prog.replace('-', '_')}_complete"


def _asked(path: tuple[str, ...], command: CommandLine, offers: Offers) -> list[str]:
    """The kinds of what a command takes besides its options."""
    names = (" ".join((*path, action.dest)) for action in command._actions if not action.option_strings)
    return [offers[name] for name in names if name in offers]


def _bash(parser: CommandLine, offers: Offers) -> str:
    name = _function(parser)
    cases = "\n".join(
        f'        "{" ".join(path)}") known="{" ".join([*command.commands(), *_choices(command)])}" '
        f'options="{" ".join(_options(command))}" kinds="{" ".join(_asked(path, command, offers))}" ;;'
        for path, command in _tree(parser)
    )
    paths = "|".join(f'"{" ".join(path)}"' for path, _ in _tree(parser) if path)
    values = "\n".join(
        f'        {word}) COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$current")); return ;;'
        if choices
        else f"        {word}) option={offers[word]} ;;"
        if word in offers
        else f'        {word}) COMPREPLY=($(compgen -f -- "$current")); return ;;'
        for word, choices in sorted(_valued(parser).items())
    )
    skipped = "|".join(sorted(_valued(parser))) or "--"
    # Options of the program itself, which say whom to ask.
    kept = "|".join(word for action in parser._actions if action.nargs != 0 for word in action.option_strings) or "--"
    # zsh runs this, too, and there $path and $words are its own.
    return f"""# bash completion for {parser.prog}
{name}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" place="" word known=""
    local skip="" longer options="" kinds="" option="" kind line="$current" tail char one at
    local -a given
    given=()
    COMPREPLY=()
    case "$previous" in
{values}
    esac
    for ((at = 1; at < COMP_CWORD; at++)); do
        word="${{COMP_WORDS[at]}}"
        if [ -n "$skip" ]; then
            case "$skip" in {kept}) given+=("$skip" "$word") ;; esac
            skip=""
            continue
        fi
        case "$word" in
        {skipped}) skip="$word"; continue ;;
        -*) continue ;;
        esac
        longer="${{place:+$place }}$word"
        case "$longer" in
        {paths}) place="$longer" ;;
        esac
    done
    case "$place" in
{cases}
    esac
    if [ -n "$option" ]; then known="" options="" kinds="$option"; fi
    case "$current" in -*) COMPREPLY=($(compgen -W "$options" -- "$current")); return ;; esac
    if [ -z "$kinds" ]; then COMPREPLY=($(compgen -W "$known $options" -- "$current")); return; fi
    # bash takes pi@host:file for five words, and puts a candidate in place of the last one.
    if [ -n "$COMP_LINE" ]; then line="${{COMP_LINE:0:$COMP_POINT}}"; line="${{line##*[[:space:]]}}"; fi
    tail="$line"
    for char in @ = :; do
        case "$COMP_WORDBREAKS" in *"$char"*) tail="${{tail##*$char}}" ;; esac
    done
    if [ "$tail" = "$line" ]; then COMPREPLY=($(compgen -W "$known" -- "$line")); fi
    for kind in $(printf '%s ' "$kinds"); do
        while IFS= read -r one; do
            if [ -n "$one" ]; then COMPREPLY+=("${{one#"${{line%"$tail"}}"}}"); fi
        done <<< "$({parser.prog} "${{given[@]}}" complete "${{kind%+}}" "$line" 2>/dev/null)"
        case "$kind" in *+) COMPREPLY+=($(compgen -f -- "$tail")) ;; esac
    done
    # What follows belongs to the same word.
    case "${{COMPREPLY[0]}}" in *[@:=/]) [ "${{#COMPREPLY[@]}}" -gt 1 ] || compopt -o nospace 2>/dev/null ;; esac
    return 0
}}
complete -o default -F {name} {parser.prog}
"""


def _zsh(parser: CommandLine, offers: Offers) -> str:
    # zsh runs bash's completions when it is asked to; one source is better than two that differ.
    return f"""#compdef {parser.prog}
autoload -U +X bashcompinit && bashcompinit
{_bash(parser, offers)}
# Loaded from fpath, this file is the function that is to complete at once.
if [[ "${{funcstack[1]}}" == "_{parser.prog}" ]]; then _bash_complete -o default -F {_function(parser)}; fi
"""


def _fish(parser: CommandLine, offers: Offers) -> str:
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
        for kind in _asked(path, command, offers):
            files = " -F" if kind.endswith("+") else ""
            lines.append(
                f"complete -c {program} -n {_quoted(seen or 'true')}{files} -a {_quoted(_fish_asks(program, kind))}"
            )
        for action in command._actions:
            if action.help == argparse.SUPPRESS or not action.option_strings:
                continue
            names = " ".join(
                f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in action.option_strings
            )
            kind = next((offers[word] for word in action.option_strings if word in offers), "")
            value = "" if action.nargs == 0 else " -r"
            if action.choices:
                value = f" -x -a {_quoted(' '.join(str(choice) for choice in action.choices))}"
            elif kind and action.nargs != 0:
                value = f" -x -a {_quoted(_fish_asks(program, kind))}"
            about = (action.help or "") % {**vars(action), "prog": program} if action.help else ""
            lines.append(f"complete -c {program} -n {_quoted(seen or 'true')} {names}{value} -d {_quoted(about)}")
    return "\n".join(lines) + "\n"


def _fish_asks(program: str, kind: str) -> str:
    return f"({program} complete {kind.rstrip('+')} (commandline -ct) 2>/dev/null)"


def _quoted(text: str) -> str:
    """A text in fish's single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

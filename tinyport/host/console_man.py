"""Manual pages (roff, man(7)), made from the same parser that reads the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

from tinyport.host.console import STATUSES, CommandLine


def man_page(
    parser: CommandLine,
    *,
    section: int = 1,
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    see_also: Sequence[str] = (),
) -> str:
    """The manual page of a program: ``man -l`` shows it as it is.

    ``environment`` and ``files``: name → what it is for. ``see_also``: pages as ``ssh(1)``.
    """
    name = parser.prog
    lines = [
        f'.TH "{_text(name.upper())}" "{section}" "" "tinyport" "User Commands"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(_summary(parser.description or ''))}",
        ".SH SYNOPSIS",
        f".B {_text(name)}",
        _synopsis(parser),
        ".SH DESCRIPTION",
        _text(parser.description or ""),
    ]
    options = _options(parser)
    if options:
        lines += [".SH OPTIONS", *options]
    if parser.commands():
        common = frozenset(word for action in parser._actions for word in action.option_strings)
        lines += [".SH COMMANDS", *_commands(parser, common)]
    lines += [".SH EXIT STATUS", *_pairs({str(status): meaning for status, meaning in STATUSES.items()})]
    for title, pairs in (("ENVIRONMENT", environment), ("FILES", files)):
        if pairs:
            lines += [f".SH {title}", *_pairs(pairs)]
    if parser.examples:
        lines += [".SH EXAMPLES", *_examples(parser.examples)]
    if see_also:
        lines += [".SH SEE ALSO", _text(", ".join(see_also))]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Plain text for roff: no line of it is a request, no dash becomes a hyphen that cannot be pasted."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in escaped.splitlines())


def _summary(text: str) -> str:
    """The first sentence, as apropos(1) lists it: no capital but an abbreviation's, no full stop."""
    first = text.split(". ")[0].rstrip(".")
    return first if first[1:2].isupper() else first[:1].lower() + first[1:]


def _shown(parser: CommandLine, common: frozenset[str]) -> list[argparse.Action]:
    """The arguments worth describing: not --help, and not those that the program itself has already described."""
    return [
        action
        for action in parser._actions
        if action.help not in (None, argparse.SUPPRESS)
        and not isinstance(action, (argparse._SubParsersAction, argparse._HelpAction))
        and not common.intersection(action.option_strings)
    ]


def _synopsis(parser: CommandLine, common: frozenset[str] = frozenset()) -> str:
    """The arguments after the program's name, in argparse's brackets; roff wraps them."""
    words = []
    for action in _shown(parser, common):
        value = _value(action)
        if action.option_strings:
            word = action.option_strings[0] + (f" {value}" if action.nargs != 0 else "")
            words.append(word if action.required else f"[{word}]")
        else:
            words.append({"?": f"[{value}]", "*": f"[{value} ...]", "+": f"{value} ..."}.get(str(action.nargs), value))
    return _text(" ".join([*words, *(["COMMAND ..."] if parser.commands() else [])]))


def _commands(parser: CommandLine, common: frozenset[str]) -> Iterator[str]:
    for command in parser.commands().values():
        if command.commands():
            yield from _commands(command, common)
            continue
        yield f'.SS "{_text(command.prog)}"'
        yield ".PP"
        yield f"\\fB{_text(command.prog)}\\fR {_synopsis(command, common)}"
        yield ".PP"
        yield _text(command.description or "")
        yield from _options(command, common)
        yield from _examples(command.examples)


def _options(parser: CommandLine, common: frozenset[str] = frozenset()) -> list[str]:
    lines: list[str] = []
    for action in _shown(parser, common):
        lines += [".TP", _term(action), _text(_help(parser, action))]
    return lines


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(str(choice) for choice in action.choices)
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _term(action: argparse.Action) -> str:
    value = f"\\fI{_text(_value(action))}\\fR"
    if not action.option_strings:
        return value
    names = ", ".join(f"\\fB{_text(word)}\\fR" for word in action.option_strings)
    return f"{names} {value}" if action.nargs != 0 else names


def _help(parser: CommandLine, action: argparse.Action) -> str:
    # argparse writes %% for a per cent sign and lets help name its own fields.
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _pairs(pairs: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for name, meaning in pairs.items():
        lines += [".TP", f"\\fB{_text(name)}\\fR", _text(meaning)]
    return lines


def _examples(examples: Sequence[str]) -> list[str]:
    if not examples:
        return []
    return [".PP", ".RS 4", ".nf", *(_text(line) for line in examples), ".fi", ".RE"]

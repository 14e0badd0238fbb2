"""The frame that tsh, tctl and tinyport share: parsing, errors in words, exit statuses, text or JSON.

A program builds a ``CommandLine``, adds commands whose ``run`` takes the parsed arguments, and hands it to ``main``.
Commands raise ``core.errors``; what they return is the exit status (None is 0).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, NoReturn

from tinyport.core.errors import AccessDenied, ConfigError, OperatorError, PeerError, TinyportError
from tinyport.core.names import printable
from tinyport.core.spelling import nearest

#: The exit statuses, the same for the three programs.
DONE, FAILED, USAGE, NOT_LOGGED_IN, DENIED, NOT_FOUND, OFFLINE = range(7)
#: As a shell reports a process that SIGINT or SIGPIPE ended.
INTERRUPTED, PIPE_CLOSED = 130, 141

STATUSES = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage",
    NOT_LOGGED_IN: "not logged in, or the login has expired",
    DENIED: "denied",
    NOT_FOUND: "not found",
    OFFLINE: "the node is offline",
}

_CODE_STATUSES = {
    "usage": USAGE,
    "login_required": NOT_LOGGED_IN,
    "bad_credentials": NOT_LOGGED_IN,
    "expired": NOT_LOGGED_IN,
    "not_found": NOT_FOUND,
    "no_such_node": NOT_FOUND,
    "offline": OFFLINE,
}

_MAX_MESSAGE = 2000
_MOST_PROBLEMS = 100

Run = Callable[[argparse.Namespace], "int | None"]


class UsageError(OperatorError):
    """The command line itself is wrong."""

    default_code = "usage"


def exit_status(error: TinyportError) -> int:
    """The exit status that an error ends a command with."""
    known = _CODE_STATUSES.get(error.code)
    if known is not None:
        return known
    return DENIED if isinstance(error, AccessDenied) else FAILED


_EXAMPLES = ("examples:", "example:")


def sentence(text: str) -> str:
    """A summary as a sentence: a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?")) else f"{text}."


class _Help(argparse.RawDescriptionHelpFormatter):
    """Commands in a plain list, and room for the names of all of ours."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, max_help_position=28, **more)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Examples are lines as they are typed; everything else is prose.
        if text.startswith(_EXAMPLES):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            # argparse has a line with the word COMMAND above them.
            return "".join(self._format_action(one) for one in action._get_subactions())
        return super()._format_action(action)


class CommandLine(argparse.ArgumentParser):
    """A parser with the house's habits: no abbreviations, examples in the help, errors as exceptions.

    ``examples``: lines as one would type them, the first being the most useful.
    """

    def __init__(
        self,
        prog: str | None = None,
        *,
        description: str | None = None,
        examples: Sequence[str] = (),
        usage: str | None = None,
        add_help: bool = True,
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> None:
        epilog = "\n".join((_EXAMPLES[len(examples) < 2], *(f"  {line}" for line in examples)))
        super().__init__(
            prog=prog,
            usage=usage,
            description=sentence(description) if description else None,
            epilog=epilog if examples else None,
            formatter_class=_Help,
            allow_abbrev=False,
            add_help=add_help,
            parents=list(parents),
        )
        self.examples = tuple(examples)
        self._commands: argparse._SubParsersAction[CommandLine] | None = None
        self._above: CommandLine | None = None

    def command(
        self,
        name: str,
        run: Run | None = None,
        *,
        help: str | None,
        description: str | None = None,
        examples: Sequence[str] = (),
        parents: Sequence[Any] = (),
        parser_class: type[CommandLine] | None = None,
    ) -> CommandLine:
        """Add a command; without ``run`` it is a group that has commands of its own. ``help=None`` hides it.

        Its parser is returned for the command's arguments.
        """
        if self._commands is None:
            self._commands = self.add_subparsers(metavar="COMMAND", title="commands", parser_class=CommandLine)
        # The parser class goes by the action; what a parser was made with is not changed by the next one.
        self._commands._parser_class = parser_class or CommandLine
        made = functools.partial(
            self._commands.add_parser, name, description=description or help, examples=examples, parents=list(parents)
        )
        # argparse leaves a command out of the listing only when the keyword is absent, not when it is None.
        added: CommandLine = made() if help is None else made(help=help)
        added._above = self
        if run is not None:
            added.set_defaults(run=run)
        else:
            added.set_defaults(run=lambda _: added.error("a command is missing"))
        return added

    def commands(self) -> dict[str, CommandLine]:
        """The listed commands by name, in the order they were added."""
        if self._commands is None:
            return {}
        listed = {action.dest for action in self._commands._choices_actions}
        return {name: parser for name, parser in self._commands.choices.items() if name in listed}

    def summaries(self) -> dict[str, str]:
        """The one-line help of each listed command."""
        actions = self._commands._choices_actions if self._commands is not None else []
        return {action.dest: action.help or "" for action in actions}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            # Said here and not by the program's own parser, which does not know what this command takes.
            self.refuse(str(rest[0]))
        return found, rest

    def refuse(self, word: str) -> NoReturn:
        """Say what is wrong with a word that this command has no use for."""
        option = word.split("=", 1)[0]
        if not option.startswith("-") or option == "-":
            raise UsageError(f"{printable(word, 80)!r} is one word too many", hint=f'run "{self.prog} --help"')
        near = nearest(option, self._option_string_actions)
        hint = f"did you mean {near}?" if near else f'run "{self.prog} --help"'
        above = self._above
        while above is not None:
            if option in above._option_string_actions:
                words = self.prog[len(above.prog) :].strip()
                hint = f'it stands before the command: "{above.prog} {option} ... {words}"'
            above = above._above
        raise UsageError(f"{self.prog} has no option {printable(option, 80)}", hint=hint)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Before 3.13 argparse takes "--" for no value, and makes an empty list of it.
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        typed = printable(str(value), 80)
        if isinstance(action, argparse._SubParsersAction):
            known: list[str] = list(self.commands())
            near = nearest(str(value), known)
            hint = f'did you mean "{self.prog} {near}"?' if near else f'run "{self.prog} --help"'
            raise UsageError(f"{self.prog} has no command {typed!r}", hint=hint)
        known = [str(choice) for choice in action.choices]
        name = action.option_strings[0] if action.option_strings else action.metavar or action.dest.upper()
        allowed = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
        raise UsageError(f"{name}: {typed!r} is not known", hint=f"write {allowed}")

    def error(self, message: str) -> NoReturn:
        # argparse quotes what was typed; it may hold anything.
        raise UsageError(printable(message, 500), hint=f'run "{self.prog} --help"')


def output_options(*, default: str = "text") -> argparse.ArgumentParser:
    """A parent parser with ``--format text|json``, which every listing takes."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--format", choices=("text", "json"), default=default, help="text for people, json for programs"
    )
    return parent


def main(program: str, build_parser: Callable[[], CommandLine], argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` (default: the process's), run the command, and return the exit status. Never raises.

    A command that is given ``-d`` (dest ``debug``) shows the traceback and the error's detail as well.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    debug = False
    try:
        _prepare_streams()
        try:
            parser = build_parser()
            args = parser.parse_args(words)
            debug = bool(getattr(args, "debug", False))
            run: Run | None = getattr(args, "run", None)
            if run is None:
                parser.error("a command is missing")
            status = run(args)
            sys.stdout.flush()
            return DONE if status is None else status
        except SystemExit as stop:
            # argparse's way to say that --help was shown.
            sys.stdout.flush()
            return stop.code if isinstance(stop.code, int) else DONE
    except BrokenPipeError:
        _abandon_output()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        status = report(program, error, debug=debug)
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            # A full disk, which was the error.
            _abandon_output()
        return status


def report(program: str, error: Exception, *, debug: bool = False) -> int:
    """Say on standard error what went wrong and what to do; return the exit status. ``debug``: where, and our own
    detail, too.
    """
    mine = _as_ours(error)
    if debug:
        _show_traceback(error)
        if mine.detail:
            _complain(program, "debug", mine.detail)
    for problem in _problems(mine):
        _complain(program, "error", problem)
    for line in _particulars(mine):
        print_error(f"  {line}")
    if mine.hint:
        _complain(program, "hint", mine.hint)
    return exit_status(mine)


def _as_ours(error: Exception) -> TinyportError:
    if isinstance(error, TinyportError):
        return error
    if isinstance(error, OSError) and error.strerror is not None:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return OperatorError(f"{name}{error.strerror.lower()}")
    hint = "this is a defect of tinyport: run it again with -d and report what it shows"
    return PeerError(f"unexpected {type(error).__name__}: {error}", hint=hint, code="internal")


def _problems(error: TinyportError) -> list[str]:
    """All that is wrong, when an error carries more than one thing: ours, or one that auth found."""
    found = error.problems if isinstance(error, ConfigError) else error.extra.get("problems")
    texts = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    return texts[:_MOST_PROBLEMS] or [error.message]


def _particulars(error: TinyportError) -> list[str]:
    """Candidates for an ambiguous name, one a line; since when an offline node is away."""
    since = error.extra.get("since")
    if error.code == "offline" and isinstance(since, (int, float)) and "since" not in error.message:
        return [f"offline since {format_time(since)}"]
    candidates = error.extra.get("candidates")
    lines: list[str] = []
    for one in candidates if isinstance(candidates, list) else ():
        if isinstance(one, dict):
            labels = one.get("labels")
            pairs = " ".join(f"{key}={value}" for key, value in labels.items()) if isinstance(labels, dict) else ""
            lines.append(printable(f"{one.get('name', '')}  {one.get('uuid', '')}  {pairs}".rstrip(), 400))
    return lines


def format_time(seconds: float) -> str:
    """Unix seconds as ``2026-01-31 12:00:00 UTC``."""
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "a time beyond the calendar"


def _complain(program: str, kind: str, text: str) -> None:
    word = paint(f"{kind}:", "red" if kind == "error" else "cyan", sys.stderr)
    print_error(f"{program}: {word} {printable(text, _MAX_MESSAGE)}")


def print_error(line: str) -> None:
    """One line on standard error; nobody listening is no reason to fail."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _prepare_streams() -> None:
    # A terminal that says it knows only ASCII gets escapes, not a UnicodeEncodeError.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _abandon_output() -> None:
    # Python flushes standard output once more when it exits, and would complain a second time.
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        return


def _show_traceback(error: Exception) -> None:
    import traceback

    for text in traceback.format_exception(error):
        for line in text.splitlines():
            print_error(printable(line, 1000))


# --- text for people ---------------------------------------------------------------------------------------------

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def colours(stream: IO[str]) -> bool:
    """May colours go to ``stream``? Only to a terminal, and never with NO_COLOR (no-color.org) or TERM=dumb."""
    try:
        terminal = stream.isatty()
    except ValueError:
        return False
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """``text`` in a colour ("bold", "dim", "red", ...), if ``stream`` (default: standard output) shows colours."""
    if not colours(stream or sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def emit(args: argparse.Namespace, data: object, render: Callable[[], Iterable[str]]) -> None:
    """Print ``data`` as ``--format json`` asks, or the lines of ``render()`` for people."""
    if getattr(args, "format", "text") == "json":
        print(to_json(data))
        return
    lines = list(render())
    if lines:
        print("\n".join(lines))


def to_json(data: object) -> str:
    """JSON that is safe on a terminal: ASCII, with DEL escaped as well."""
    import json

    return json.dumps(data, indent=2, sort_keys=False).replace("\x7f", "\\u007f")

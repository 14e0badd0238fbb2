"""The frame of the three programs: errors in words, statuses, tables, hostile text."""

from __future__ import annotations

import argparse
import io
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.admin.main import build_parser as tinyport_parser
from tinyport.admin.tctl import build_parser as tctl_parser
from tinyport.client.main import parser as tsh_parser
from tinyport.core.errors import AccessDenied, ConfigError, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.host import console
from tinyport.host.console import CommandLine
from tinyport.host.console_wrap import width, wrapped
from tinyport.link.refusal import error_of

#: what starts daemons, takes the terminal over or becomes another program
DO_MORE = {"start", "quickstart", "install", "top", "join"}
PROGRAMS: list[Callable[[], CommandLine]] = [tsh_parser, tctl_parser, tinyport_parser]


def program(error: Exception) -> Callable[[], CommandLine]:
    def fail(_: argparse.Namespace) -> int:
        raise error

    def build() -> CommandLine:
        parser = CommandLine("tsh", examples=["tsh x"])
        parser.command("x", fail, help="fails")
        return parser

    return build


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperatorError("m"), 1),
        (OperatorError("m", code="usage"), 2),
        (AccessDenied("m", code="expired"), 3),
        (AccessDenied("m", code="login_required"), 3),
        (AccessDenied("m"), 4),
        (AccessDenied("m", code="locked"), 4),
        (TinyportError("m", code="no_such_node"), 5),
        (Unavailable("m", code="offline"), 6),
        (Unavailable("m"), 1),
        (PeerError("m"), 1),
        (ConfigError(["m", "n"]), 1),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1),
        (ZeroDivisionError("m"), 1),
    ],
)
def test_every_error_has_its_status_and_its_words(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.main("tsh", program(error), ["x"]) == status
    said = capsys.readouterr().err
    assert said.startswith("tsh: error: ")
    assert "Traceback" not in said


def test_every_problem_has_a_line_whoever_found_it(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = error_of(400, {"error": {"code": "config", "message": "m", "problems": ["role x: a", "role x: b"]}})
    console.main("tctl", program(theirs), ["x"])
    console.main("tctl", program(ConfigError(["one"])), ["x"])
    expected = ["tctl: error: role x: a", "tctl: error: role x: b", "tctl: error: one"]
    assert capsys.readouterr().err.splitlines() == expected


def test_hostile_text_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.main("tsh", program(PeerError("\x1b[2Jevil\r\n\u202e")), ["x"])
    assert "\\x1b[2Jevil\\x0d\\x0a\\u202e" in capsys.readouterr().err


@given(st.text(max_size=40), st.integers(min_value=2, max_value=30))
def test_wrapping_loses_nothing_and_fits(text: str, columns: int) -> None:
    lines = wrapped(text, columns)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line) <= columns or " " not in line for line in lines)


def test_pipes_get_no_colours() -> None:
    assert console.paint("x", "red") == "x"


@pytest.mark.parametrize("build", PROGRAMS, ids=["tsh", "tctl", "tinyport"])
def test_every_command_has_help_with_an_example(
    build: Callable[[], CommandLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def walk(parser: CommandLine, path: str) -> None:
        for name, command in parser.commands().items():
            text = command.format_help()
            assert "example" in text or name == "version", f"{path} {name} has no example"
            assert not [action.dest for action in command._actions if not action.help and action.dest != SUPPRESS]
            # Prose is wrapped; what one would type is not.
            assert max(map(len, text.partition("\n\n")[2].partition("\nexample")[0].splitlines())) <= 80, (
                f"{path} {name}"
            )
            walk(command, f"{path} {name}")

    walk(build(), build().prog)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tsh sl", 'did you mean "tsh ls"?'),
        ("tsh ls --fromat json", "did you mean --format?"),
        ("tsh ssh --clutser x pi@greenhouse", "did you mean --cluster?"),
        ("tctl node ls", 'did you mean "tctl nodes"?'),
        ("tctl nodes list", 'did you mean "tctl nodes ls"?'),
        ("tctl nodes ls -c FILE", 'it stands before the command: "tctl -c ... nodes ls"'),
        ("tctl frobnicate", 'run "tctl --help"'),
        ("tctl status more", 'run "tctl status --help"'),
        ("tctl auth export --type nope", "write user, host, tls or policy"),
        ("tinyport start --rolls node", "did you mean --roles?"),
    ],
)
def test_what_is_mistyped_is_put_right(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = line.split()
    build = {build().prog: build for build in PROGRAMS}[name]
    assert console.main(name, build, words) == console.USAGE
    assert f"{name}: hint: {expected}\n" in capsys.readouterr().err


@pytest.mark.parametrize("build", PROGRAMS, ids=["tsh", "tctl", "tinyport"])
def test_help_has_a_line_for_each_command(build: Callable[[], CommandLine]) -> None:
    lines = build().format_help().splitlines()
    for name, summary in build().summaries().items():
        assert any(line.startswith(f"  {name} ") and summary.split()[0] in line for line in lines), name


@pytest.mark.parametrize("build", PROGRAMS, ids=["tsh", "tctl", "tinyport"])
@pytest.mark.parametrize("word", ["", "--", "x", "\x1b[2J", "@", "k=" + "v" * 400])
def test_no_word_is_a_defect(
    build: Callable[[], CommandLine],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is typed for an argument or an option, without a login and a cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYPORT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TINYPORT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    parser = build()
    for path, command in commands(parser):
        if path[-1] in DO_MORE:
            continue
        arguments = [action for action in command._actions if not action.option_strings]
        valued = [action for action in command._actions if action.option_strings and action.nargs != 0]
        names = [action.option_strings[-1] for action in valued]
        options = [f"{name}={word}" for name in names if name.startswith("--")]
        for words in [[word] * len(arguments), *([option, *("x" for _ in arguments)] for option in options)]:
            status = console.main(parser.prog, lambda: parser, [*path, *words])
            said = capsys.readouterr().err
            assert "unexpected" not in said, f"{path} {words}"
            assert status in (*range(7), 255), f"{path} {words}: {said}"


def commands(parser: CommandLine, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], CommandLine]]:
    for name, command in parser.commands().items():
        if command.commands():
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command

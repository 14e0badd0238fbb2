"""What shells offer for a word: commands and options from the parsers, and what the cluster knows."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.admin.main import build_parser as tinyport_parser
from tinyport.admin.tctl import build_parser as tctl_parser
from tinyport.admin.tctl_complete import OFFERS as TCTL_OFFERS
from tinyport.client.complete import OFFERS as TSH_OFFERS
from tinyport.client.main import parser as tsh_parser
from tinyport.core.errors import Unavailable
from tinyport.host import console_candidates
from tinyport.host.console import CommandLine
from tinyport.host.console_candidates import complete, labels_of, names_of, targets
from tinyport.host.console_completion import completion_script

PROGRAMS: list[Callable[[], CommandLine]] = [tsh_parser, tctl_parser, tinyport_parser]
OFFERS = {"tsh": TSH_OFFERS, "tctl": TCTL_OFFERS, "tinyport": {}}
# Whom it was asked for is the last candidate.
PROGRAM = """#!/bin/sh
for word; do kind="$before" before="$word"; done
case "$kind" in
target) printf '%s\\n' pi@ greenhouse shed pi@greenhouse pi@shed ;;
path) printf '%s\\n' pi@ greenhouse: shed: pi@greenhouse: ;;
selector) printf '%s\\n' site=berlin site=paris room=7 ;;
login) printf '%s\\n' pi "$*" ;;
esac | while IFS= read -r one; do case "$one" in "$before"*) printf '%s\\n' "$one" ;; esac; done
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], str]:
    """(program, shell) → a completion script in which the program is ours."""
    for name in OFFERS:
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)

    def made(program: str, shell: str) -> str:
        build = {build().prog: build for build in PROGRAMS}[program]
        script = completion_script(build(), shell, OFFERS[program])
        set_path = f"set -x PATH {tmp_path} $PATH\n" if shell == "fish" else f"PATH={tmp_path}:$PATH\n"
        return set_path + script

    return made


def said(shell: list[str], text: str, folder: Path) -> list[str]:
    done = subprocess.run([*shell, text], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


ROWS = [
    ("tctl no", {"nodes"}),
    ("tctl nodes la", {"label"}),
    ("tctl -c some-file nodes ls --format ", {"text", "json"}),
    ("tctl auth export --type h", {"host"}),
    ("tsh ssh gr", {"greenhouse"}),
    ("tsh ssh -l pi s", {"shed"}),
    ("tsh ssh pi@g", {"pi@greenhouse"}),
    ("tsh scp gr", {"greenhouse:", "grapes.txt"}),
    ("tsh ls site=", {"site=berlin", "site=paris"}),
    ("tsh run --login p", {"pi"}),
]


@pytest.mark.parametrize(("line", "expected"), ROWS)
def test_bash_completes(script: Callable[[str, str], str], line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "grapes.txt").touch()
    *words, last = line.split(" ")
    # bash breaks words at these, and wants what stands in place of the last piece.
    tail = last.replace("@", "\n@\n").replace("=", "\n=\n").split("\n")
    pieces = [*words, *(piece for piece in tail[:-1] if piece), tail[-1]]
    given = " ".join(f"'{piece}'" for piece in pieces)
    text = f"{script(words[0], 'bash')}\nCOMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({given}); "
    text += f"COMP_CWORD={len(pieces) - 1}; _{words[0]}_complete; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    head = last[: len(last) - len(tail[-1])]
    assert set(said([need_program("bash"), "-c"], text, tmp_path)) == {one.removeprefix(head) for one in expected}


@pytest.mark.parametrize(("line", "expected"), ROWS)
def test_zsh_completes(script: Callable[[str, str], str], line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "grapes.txt").touch()
    words = line.split(" ")
    given = " ".join(f"'{word}'" for word in words)
    # As bashcompinit calls it.
    text = f"autoload -U compinit && compinit -u -D\n{script(words[0], 'zsh')}\nemulate -L ksh\n"
    text += f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; "
    text += f"_{words[0]}_complete; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    # Its compgen leaves out nothing: the shell itself does.
    found = said([need_program("zsh"), "-f", "-c"], text, tmp_path)
    assert {one for one in found if one.startswith(words[-1])} == expected


@pytest.mark.parametrize(("line", "expected"), ROWS)
def test_fish_completes(script: Callable[[str, str], str], line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "grapes.txt").touch()
    text = f"{script(line.split()[0], 'fish')}\ncomplete -C '{line}'"
    lines = said([need_program("fish"), "--no-config", "-c"], text, tmp_path)
    assert {candidate.split("\t")[0] for candidate in lines} == expected


def test_the_program_is_asked_as_who_one_said_to_be(script: Callable[[str, str], str], tmp_path: Path) -> None:
    words = ["tsh", "-i", "alice.json", "--proxy", "port.example.com", "run", "--login", ""]
    given = " ".join(f"'{word}'" for word in words)
    text = f"{script('tsh', 'bash')}\nCOMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _tsh_complete; "
    lines = said([need_program("bash"), "-c"], text + "printf '%s\\n' \"${COMPREPLY[@]}\"", tmp_path)
    assert lines == ["pi", "-i alice.json --proxy port.example.com complete login "]


@pytest.mark.parametrize("build", PROGRAMS, ids=["tsh", "tctl", "tinyport"])
def test_every_kind_is_of_a_word_that_there_is(build: Callable[[], CommandLine]) -> None:
    """A command that is renamed takes its line in the table with it."""
    program = build().prog
    for place in OFFERS[program]:
        parser, *path = build(), *place.split(" ")
        for word in path[:-1]:
            parser = parser.commands()[word]
        if place.startswith("-"):
            assert f" {place}) option=" in completion_script(build(), "bash", OFFERS[program])
        else:
            assert path[-1] in {action.dest for action in parser._actions}, place


def test_only_what_no_shell_reads_anything_into_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"node": lambda word: ["shed", "a b", "$(reboot)", "x;y", "\x1b[2J", "grün", "greenhouse", "shed"]}
    assert complete(kinds, "node", "") == 0
    assert capsys.readouterr().out == "greenhouse\nshed\n"


def test_when_there_is_nobody_to_ask_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def away(word: str) -> list[str]:
        raise Unavailable("auth is away")

    assert complete({"node": away}, "node", "") == 1
    assert complete({}, "frob", "") == 0
    assert capsys.readouterr() == ("", "")


def test_a_server_that_is_slow_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_candidates, "_PATIENCE", 1)
    stuck, other = socket.socketpair()
    with stuck, other:
        assert complete({"node": lambda word: [str(stuck.recv(1))]}, "node", "") == 1


def test_candidates_of_what_auth_says() -> None:
    answer = {"nodes": [{"name": "shed", "labels": {"site": "berlin"}}, {"name": "pi"}, "x"]}
    assert names_of(answer, "nodes", "name") == ["shed", "pi"]
    assert (names_of({}, "nodes", "name"), labels_of({"nodes": 3})) == ([], [])
    assert labels_of(answer) == ["site=berlin"]
    assert targets("pi@s", ["pi"], lambda: ["shed"], ":") == ["pi@shed:"]
    assert targets("", ["pi"], lambda: ["shed"]) == ["pi@", "shed"]

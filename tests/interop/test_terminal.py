"""ssh at a real terminal, as people use it: windows that change, control keys, programs that take every key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.interop.terminal import Terminal


@pytest.fixture(params=["through the proxy", "straight"])
def terminal(request: pytest.FixtureRequest, peer: Peer) -> Iterator[Terminal]:
    need_program("ssh")
    need_program("setsid")
    options = peer.direct if request.param == "straight" else peer.via_proxy
    with Terminal(["ssh", "-tt", *options, peer.destination], peer.cluster.env(peer.user)) as terminal:
        # Prompts and line editors differ; this has the same words on every machine.
        terminal.ask(b"exec env -i TERM=$TERM PATH=$PATH HOME=/ PS1=rea''dy: sh", b"ready:")
        yield terminal


def test_the_window_has_its_size_and_changes_it(terminal: Terminal) -> None:
    terminal.ask(b"stty size", b"24 80\r\n")
    terminal.resize(50, 132)
    # The change travels beside the keys: what is typed afterwards finds it.
    terminal.ask(b"until stty size | grep 50; do :; done", b"50 132\r\n")


def test_control_c_ends_the_program_and_not_the_session(terminal: Terminal) -> None:
    terminal.ask(b"sh -c 'echo $((40+2)); exec sleep 600'", b"42\r\n")
    terminal.type(b"\x03")
    terminal.ask(b"echo status $?", b"status 130\r\n")


def test_control_z_and_control_d(terminal: Terminal) -> None:
    # It speaks when it has the terminal: a key that comes before is the shell's, which ignores it.
    terminal.ask(b"sh -c 'echo $((40+2)); exec cat'", b"42\r\n")
    terminal.type(b"\x1a")
    terminal.expect(b"Stopped")
    terminal.expect(b"exec cat")
    terminal.ask(b"fg", b"exec cat")
    terminal.type(b"\x04")
    terminal.ask(b"echo status $?", b"status 0\r\n")


def test_a_program_in_raw_mode_gets_every_key(terminal: Terminal) -> None:
    terminal.ask(b"stty raw -echo; echo $((40+2)); head -c 6 | od -An -tx1; stty sane", b"42\n")
    # Escape sequences, control-C, control-D, control-S: keys like others to an editor.
    terminal.type(b"\x1b[A\x03\x04\x13")
    terminal.expect(b"1b 5b 41 03 04 13")
    terminal.ask(b"echo $((40+3))", b"43\r\n")


def test_the_terminal_is_what_it_says(terminal: Terminal) -> None:
    terminal.ask(b"tty; echo $TERM; ps -o tty= -p $$", b"/dev/pts/")
    terminal.expect(b"xterm-256color\r\n")
    terminal.expect(b"pts/")


def test_exit_is_the_end_of_ssh(terminal: Terminal) -> None:
    terminal.type(b"exit 3\n")
    assert terminal.wait() == 3
    assert b"closed" in terminal.shown

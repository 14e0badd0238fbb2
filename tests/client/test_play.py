"""Playing recordings: where the head is, in a terminal, and what else reads them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import SLOWNESS
from tinyport.client.playback import Playback, Tape
from tinyport.core.errors import PeerError

TSH = Path(sys.executable).with_name("tsh")


def tape(*times: float, idle_limit: float | None = None) -> Tape:
    made = Tape(idle_limit)
    made.feed(b'{"version": 2, "width": 80, "height": 24}')
    for number, seconds in enumerate(times):
        made.feed(f'[{seconds}, "o", "{number} "]'.encode())
    return made


def test_it_goes_with_the_clock() -> None:
    head = Playback(tape(0, 1, 2, 10), now=100.0)
    assert list(head.due(100.0)) == ["0 "]
    assert head.wait(100.0) == 1.0
    assert list(head.due(102.5)) == ["1 ", "2 "]
    head.change_speed(2.0, 102.5)
    assert head.wait(102.5) == pytest.approx(3.75)
    head.pause(103.5)
    assert head.position(200.0) == pytest.approx(4.5)
    assert head.wait(200.0) is None
    head.pause(200.0)
    assert list(head.due(202.75)) == ["3 "]
    assert not head.at_end
    head.tape.ended = True
    assert head.at_end


def test_to_and_fro() -> None:
    head = Playback(tape(*range(20)), now=0.0)
    head.due(10.0)
    assert not head.skip(5, 10.0)
    assert list(head.catch_up(10.0))[-1] == "15 "
    assert head.skip(-10, 10.0)
    assert "".join(head.catch_up(10.0)) == "0 1 2 3 4 5 "
    assert not head.skip(1000, 10.0)
    assert head.position(10.0) == 19


def test_long_waits_are_cut() -> None:
    assert tape(0, 1, 100, 101, idle_limit=2).times == [0, 1, 3, 4]
    assert tape(0, 1, 100).times == [0, 1, 100]


def test_live() -> None:
    there = tape(0, 50, 100)
    head = Playback(there, now=0.0, live=True)
    assert len(head.due(0.0)) == 3
    there.feed(b'[500, "o", "x"]')
    assert list(head.due(1.0)) == ["x"]
    head.pause(1.0)
    there.feed(b'[501, "o", "y"]')
    assert list(head.due(2.0)) == []
    head.go_live(3.0)
    assert list(head.due(3.0)) == ["y"]


def test_a_tape_that_runs_dry_goes_on_from_there() -> None:
    there = tape(0, 1)
    head = Playback(there, now=0.0)
    head.due(60.0)
    there.feed(b'[5, "o", "x"]')
    assert head.wait(60.0) == pytest.approx(4.0)


def test_version_3_counts_from_the_event_before() -> None:
    made = Tape()
    made.feed(b'{"version": 3, "term": {"cols": 80, "rows": 24}}')
    for line in (b'[1, "o", "a"]', b"# a comment", b'[1.5, "r", "80x20"]', b'[2, "o", "b"]'):
        made.feed(line)
    assert made.times == [1, 4.5]


def test_what_is_no_recording() -> None:
    for line in (b"[]", b'{"version": 1}', b"hello"):
        with pytest.raises(PeerError):
            Tape().feed(line)


@pytest.fixture
def cast(tmp_path: Path) -> Path:
    path = tmp_path / "session.cast"
    lines = ['{"version": 2, "width": 80, "height": 24}', '[0, "o", "first\\r\\n"]', '[0.1, "m", "somebody joins"]']
    lines += ['[0.2, "r", "90x30"]', *(f'[{1 + number}, "o", "line {number}\\r\\n"]' for number in range(30))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_off_a_terminal_all_of_it_is_written(cast: Path) -> None:
    done = subprocess.run([TSH, "play", cast], capture_output=True, timeout=60 * SLOWNESS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"first\r\nline 0\r\n")
    assert done.stdout.endswith(b"line 29\r\n")
    missing = subprocess.run([TSH, "play", cast.parent / "no.cast"], capture_output=True, timeout=60 * SLOWNESS)
    assert b"no such file" in missing.stderr
    wrong = subprocess.run([TSH, "play", TSH], capture_output=True, timeout=60 * SLOWNESS)
    assert b"not a recording" in wrong.stderr or b"not JSON" in wrong.stderr


Screen = Callable[[str], str]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., str]]:
    tmux = need_program("tmux")

    def run(*words: str) -> str:
        line = [tmux, "-S", str(tmp_path / "tmux"), "-f", "/dev/null", *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=60 * SLOWNESS).stdout

    run("new-session", "-d", "-x", "80", "-y", "24", "sh")
    yield run
    run("kill-server")


def seen(terminal: Callable[..., str], text: str) -> str:
    deadline = time.monotonic() + 30 * SLOWNESS
    while text not in (screen := terminal("capture-pane", "-p")):
        assert time.monotonic() < deadline, screen
        time.sleep(0.05)
    return screen


def test_in_a_terminal_with_keys(terminal: Callable[..., str], cast: Path) -> None:
    terminal("send-keys", f"{TSH} play {cast}; echo left-with-$?", "Enter")
    seen(terminal, "first")
    terminal("send-keys", " ")
    assert "0:" in seen(terminal, "paused")
    terminal("send-keys", "]")
    seen(terminal, "line 29")
    terminal("send-keys", "Left", "Left")
    # Its place is drawn last.
    screen = seen(terminal, "0:20 /")
    assert "line 19" in screen
    assert "line 29" not in screen
    terminal("send-keys", "+")
    seen(terminal, "2x")
    terminal("send-keys", "0")
    assert "line 1" not in seen(terminal, "0:00 /")
    terminal("send-keys", "q")
    seen(terminal, "left-with-0")
    # The terminal is as it was.
    terminal("send-keys", "stty -a | tr ' ' '\\n' | grep -c -x -e icanon -e echo", "Enter")
    seen(terminal, "\n2\n")


def test_asciinema_plays_what_it_is_given(terminal: Callable[..., str], cast: Path) -> None:
    need_program("asciinema")
    written = cast.with_name("written")
    terminal("send-keys", f"asciinema cat {cast} > {written}; asciinema play -s 50 {cast}; echo left-with-$?", "Enter")
    assert "line 29" in seen(terminal, "left-with-0")
    assert written.read_bytes().endswith(b"line 29\r\n")

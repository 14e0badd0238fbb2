"""utmp, wtmp and lastlog, read back by the programs that read them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.host import login_records
from tinyport.host.greeting import greeting, last_login_line
from tinyport.host.login_records import LastLogin, Login, LoginRecords

LOGIN = Login("pi", 1000, 4711, "pts/3", "192.0.2.7")
OTHER = Login("ana", 1001, 4712, "pts/4", "2001:db8::7")
WHEN = 1_700_000_000.5


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("utmp", "wtmp", "lastlog"):
        (tmp_path / name).touch()
    return tmp_path


def records(folder: Path) -> LoginRecords:
    return LoginRecords((str(folder / "absent"), str(folder / "utmp")), str(folder / "wtmp"), str(folder / "lastlog"))


def shown(*words: str) -> str:
    need_program(words[0])
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "TZ": "UTC"}
    )
    return done.stdout


def test_who_is_on(files: Path) -> None:
    made = records(files)
    made.begin(LOGIN, WHEN)
    made.begin(OTHER, WHEN)
    lines = shown("who", str(files / "utmp")).splitlines()
    assert [line.split()[:2] for line in lines] == [["pi", "pts/3"], ["ana", "pts/4"]]
    assert "(192.0.2.7)" in lines[0]
    assert "(2001:db8::7)" in lines[1]
    made.end(LOGIN, WHEN + 60, 0)
    assert [line.split()[0] for line in shown("who", str(files / "utmp")).splitlines()] == ["ana"]
    # The line is somebody else's next: in the same place.
    size = (files / "utmp").stat().st_size
    made.begin(Login("eva", 1002, 4713, "pts/3", "192.0.2.8"), WHEN + 90)
    assert (files / "utmp").stat().st_size == size
    assert {line.split()[0] for line in shown("who", str(files / "utmp")).splitlines()} == {"ana", "eva"}


def test_who_was_on(files: Path) -> None:
    made = records(files)
    made.begin(LOGIN, WHEN)
    made.end(LOGIN, WHEN + 754, 3 << 8)
    (line,) = [line for line in shown("last", "-F", "-w", "-f", str(files / "wtmp")).splitlines() if "pts/3" in line]
    assert line.split()[:3] == ["pi", "pts/3", "192.0.2.7"]
    assert "Nov 14 22:13:20 2023 - Tue Nov 14 22:25:54 2023" in line
    assert line.endswith("(00:12)")


def test_when_each_was_last(files: Path) -> None:
    made = records(files)
    assert made.last(1000) is None
    made.begin(LOGIN, WHEN)
    assert made.last(1000) == LastLogin(1_700_000_000.0, "pts/3", "192.0.2.7")
    assert made.last(999) is None
    assert made.last(100_000) is None


def test_files_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    made = records(tmp_path)
    made.begin(LOGIN, WHEN)
    made.end(LOGIN, WHEN, 0)
    assert made.last(1000) is None
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_is_mended(files: Path) -> None:
    made = records(files)
    made.begin(LOGIN, WHEN)
    with (files / "wtmp").open("ab") as file:
        file.write(b"half an entry")
    made.end(LOGIN, WHEN + 60, 0)
    assert (files / "wtmp").stat().st_size % 8 == 0
    assert "pts/3" in shown("last", "-f", str(files / "wtmp"))


def test_a_lock_that_somebody_keeps(files: Path) -> None:
    pid = os.fork()
    if pid == 0:
        descriptor = os.open(files / "wtmp", os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        (files / "held").touch()
        time.sleep(30)
        os._exit(0)
    try:
        while not (files / "held").exists():
            time.sleep(0.001)
        with pytest.raises(OSError, match=r"temporarily unavailable|Permission denied"):
            records(files).begin(LOGIN, WHEN)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("long_times", "sizes"), [(False, (384, 292)), (True, (400, 296))], ids=["x86-64 and 32-bit", "arm64"]
)
def test_layouts(long_times: bool, sizes: tuple[int, int], files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_records, "_long_times", lambda: long_times)
    made = records(files)
    made.begin(Login("p" * 40, 2, 1, "pts/1000000000000000000000000000000000", "h" * 300), WHEN)
    assert (files / "wtmp").stat().st_size == sizes[0]
    assert (files / "lastlog").stat().st_size == 3 * sizes[1]
    assert made.last(2) is not None


def test_what_is_read_at_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    motd, dynamic = tmp_path / "motd", tmp_path / "dynamic"
    motd.write_text("be kind")
    dynamic.write_text("Linux 6.1\n")
    monkeypatch.setattr("tinyport.host.greeting.MOTD", (str(dynamic), str(tmp_path / "absent"), str(motd)))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    last = LastLogin(WHEN, "pts/3", "192.0.2.7")
    text = greeting(str(tmp_path), last).decode()
    assert text == "Linux 6.1\nbe kind\nLast login: Tue Nov 14 22:13:20 2023 from 192.0.2.7\n"
    assert greeting(str(tmp_path), None).decode() == "Linux 6.1\nbe kind\n"
    (tmp_path / ".hushlogin").touch()
    assert greeting(str(tmp_path), last) == b""
    assert last_login_line(LastLogin(WHEN, "tty1", "")) == "Last login: Tue Nov 14 22:13:20 2023 on tty1\n"
    assert "\x1b" not in last_login_line(LastLogin(WHEN, "tty1", "\x1b[2J"))


def test_a_message_that_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr("tinyport.host.greeting.MOTD", (str(pipe), "/dev/zero"))
    assert len(greeting(str(tmp_path), None)) <= 64 * 1024 + 1

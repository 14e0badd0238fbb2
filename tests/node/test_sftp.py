"""The sftp server, judged by OpenSSH's client, by paramiko's, and by bytes that are not SFTP."""

from __future__ import annotations

import os
import shlex
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import need_program
from tinyport.node import sftp
from tinyport.node import sftp_wire as w
from tinyport.node.sftp_operations import MAX_HANDLES, Operations

ROOT = Path(__file__).resolve().parents[2]
CODE = f"import sys; sys.path.append({str(ROOT)!r}); from tinyport.node.sftp import main; main()"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A program that serves sftp on its standard streams, on a bare interpreter as the keeper starts it."""
    script = tmp_path / "server.sh"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S -c {shlex.quote(CODE)} "$@"\n')
    script.chmod(0o755)
    return script


def openssh(server: Path, folder: Path, *commands: str) -> str:
    done = subprocess.run(
        [need_program("sftp"), "-b", "-", "-D", str(server)],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_openssh_moves_files_and_all_their_kinds(server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    data = os.urandom(3_000_001)
    (folder / "big").write_bytes(data)
    (folder / "empty").write_bytes(b"")
    listed = openssh(
        server,
        folder,
        "mkdir a",
        "put big a/b",
        "put empty a/e",
        "get a/b back",
        "rename a/b a/c",
        "ln a/c a/hard",
        "ln -s c a/soft",
        "cp a/c a/copy",
        "chmod 640 a/copy",
        "df",
        "ls -l a",
    )
    assert (folder / "back").read_bytes() == data
    assert (folder / "a/copy").read_bytes() == data
    assert stat.S_IMODE((folder / "a/copy").stat().st_mode) == 0o640
    assert os.readlink(folder / "a/soft") == "c"
    assert (folder / "a/hard").stat().st_nlink == 2
    for name in ("c", "hard", "soft", "copy", "e"):
        assert name in listed
    openssh(server, folder, "rm a/*", "rmdir a")
    assert not (folder / "a").exists()


def test_names_are_bytes(server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "ümlaut and space").write_text("x")
    openssh(server, folder, 'get "ümlaut and space" copy')
    assert (folder / "copy").read_text() == "x"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client(tmp_path) as made:
        yield made


class Client:
    """Speaks single packets with a server in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.fsencode(folder)
        self._operations = Operations(read_only=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._operations.close_all()

    def path(self, name: str) -> bytes:
        return w.string(os.path.join(self.folder, os.fsencode(name)))

    def ask(self, kind: int, body: bytes, operations: Operations | None = None) -> tuple[int, bytes]:
        answer = (operations or self._operations).answer(kind, 7, w.Packet(body))
        assert int.from_bytes(answer[:4], "big") == len(answer) - 4
        assert int.from_bytes(answer[5:9], "big") == 7
        return answer[4], answer[9:]

    def status(self, kind: int, body: bytes, operations: Operations | None = None) -> int:
        answered, payload = self.ask(kind, body, operations)
        assert answered == w.STATUS
        return int.from_bytes(payload[:4], "big")

    def open(self, name: str, flags: int) -> bytes:
        kind, payload = self.ask(w.OPEN, self.path(name) + flags.to_bytes(4, "big") + w.NO_ATTRIBUTES)
        assert kind == w.HANDLE
        return payload


def offset(number: int) -> bytes:
    return number.to_bytes(8, "big")


def test_version_3_rename_replaces_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert client.status(w.RENAME, client.path("a") + client.path("b")) == w.FAILURE
    assert (tmp_path / "b").read_text() == "b"
    extension = w.string(b"posix-rename@openssh.com")
    assert client.status(w.EXTENDED, extension + client.path("a") + client.path("b")) == w.OK
    assert (tmp_path / "b").read_text() == "a"


def test_appending_goes_to_the_end(client: Client, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one ")
    handle = client.open("log", w.FLAG_WRITE | w.FLAG_APPEND)
    assert client.status(w.WRITE, handle + offset(0) + w.string(b"two")) == w.OK
    assert (tmp_path / "log").read_bytes() == b"one two"


def test_reading_past_the_end_is_the_end(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    handle = client.open("f", w.FLAG_READ)
    assert client.ask(w.READ, handle + offset(3) + (100).to_bytes(4, "big")) == (w.DATA, w.string(b"45"))
    assert client.status(w.READ, handle + offset(5) + (100).to_bytes(4, "big")) == w.EOF
    assert client.status(w.READ, handle + offset(2**64 - 1) + (1).to_bytes(4, "big")) == w.BAD_MESSAGE


def test_handles_are_bounded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for _ in range(MAX_HANDLES):
        client.open("f", w.FLAG_READ)
    assert client.status(w.OPENDIR, client.path(".")) == w.FAILURE


def test_a_closed_handle_is_none(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    handle = client.open("f", w.FLAG_READ)
    assert client.status(w.CLOSE, handle) == w.OK
    for kind in (w.CLOSE, w.FSTAT):
        assert client.status(kind, handle) == w.BAD_MESSAGE


def test_read_only_changes_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    careful = Operations(read_only=True)
    for kind, body in (
        (w.REMOVE, client.path("f")),
        (w.MKDIR, client.path("d") + w.NO_ATTRIBUTES),
        (w.SETSTAT, client.path("f") + w.NO_ATTRIBUTES),
        (w.OPEN, client.path("g") + (w.FLAG_READ | w.FLAG_CREATE).to_bytes(4, "big") + w.NO_ATTRIBUTES),
        (w.OPEN, client.path("f") + (w.FLAG_READ | w.FLAG_TRUNCATE).to_bytes(4, "big") + w.NO_ATTRIBUTES),
        (w.EXTENDED, w.string(b"posix-rename@openssh.com") + client.path("f") + client.path("g")),
    ):
        assert client.status(kind, body, careful) == w.PERMISSION_DENIED
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"x"


def test_a_fifo_does_not_hang_the_connection(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    client.open("fifo", w.FLAG_READ)


KINDS = st.one_of(st.sampled_from([*range(1, 21), w.EXTENDED, 99]), st.integers(0, 255))
NAMES = st.sampled_from(
    [b"posix-rename@openssh.com", b"copy-data", b"limits@openssh.com", b"users-groups-by-id@openssh.com"]
)


@given(st.lists(st.tuples(KINDS, st.one_of(st.binary(max_size=64), NAMES.map(w.string))), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_any_request_gets_one_answer(tmp_path: Path, requests: list[tuple[int, bytes]]) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        # Read-only: a random path is an absolute one sooner or later, and this may be root's machine.
        careful = Operations(read_only=True)
        with Client(tmp_path) as client:
            for kind, body in requests:
                client.ask(kind, body, careful)
        careful.close_all()
    finally:
        os.chdir(before)


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=100)
def test_any_stream_ends_cleanly(data: bytes) -> None:
    near, far = socket.socketpair()
    status: list[int] = []
    with near, far:
        thread = threading.Thread(target=lambda: status.append(sftp.serve(far.fileno(), far.fileno(), read_only=True)))
        thread.start()
        near.sendall(b"\0\0\0\x05\x01\0\0\0\x03" + data)
        near.shutdown(socket.SHUT_WR)
        thread.join(30)
    assert status[0] in (0, 1)


@pytest.mark.root
def test_becoming_a_user_is_for_good(server: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    command = [str(server), "--become", "65534:65534:65534"]
    init = b"\0\0\0\x05\x01\0\0\0\x03"
    path = w.string(os.fsencode(secret))
    body = b"\x03\0\0\0\x07" + path + w.FLAG_READ.to_bytes(4, "big") + w.NO_ATTRIBUTES
    done = subprocess.run(
        command, input=init + len(body).to_bytes(4, "big") + body, capture_output=True, timeout=60, check=False
    )
    length = int.from_bytes(done.stdout[:4], "big")
    answer = done.stdout[4 + length :]
    assert answer[4] == w.STATUS
    assert int.from_bytes(answer[9:13], "big") == w.PERMISSION_DENIED


def test_wrong_options_are_refused(server: Path) -> None:
    done = subprocess.run([str(server), "--become", "x"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"error" in done.stderr
    assert b"Traceback" not in done.stderr

"""The sftp server, judged by OpenSSH's client, by paramiko's, and by bytes that are not SFTP."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_program
from tinyport.node.sftp import wire as w

ROOT = Path(__file__).resolve().parents[2]
CODE = f"import sys; sys.path.append({str(ROOT)!r}); from tinyport.node.sftp.sftp import main; main()"


def ourselves() -> str:
    """The user who runs the tests, whoever that is, as the option for it."""
    return f"--become {os.geteuid()}:{os.getegid()}:{','.join(map(str, os.getgroups()))}"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A program that serves sftp on its standard streams, on a bare interpreter as the keeper starts it."""
    script = tmp_path / "server.sh"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S -c {shlex.quote(CODE)} {ourselves()} "$@"\n')
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


@pytest.mark.parametrize(
    "words",
    [
        ["--become", "x"],
        ["--become"],
        ["--what", "x"],
        ["--deny", "everything"],
        ["--umask", "9"],
        ["--become", "0:0:", "--root", "/srv"],
    ],
)
def test_wrong_options_are_refused(server: Path, words: list[str]) -> None:
    done = subprocess.run([str(server), *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"error" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.root
def test_root_is_not_served_unless_asked_for() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", CODE], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"will not serve as root" in done.stderr


def test_where_it_begins_and_with_which_umask(server: Path, tmp_path: Path) -> None:
    (tmp_path / "home/inner").mkdir(parents=True)
    script = tmp_path / "placed.sh"
    options = f"--home {tmp_path}/home --folder inner --umask 077"
    script.write_text(f'#!/bin/sh\nexec {server} {options} "$@"\n')
    script.chmod(0o755)
    (tmp_path / "f").touch()
    openssh(script, tmp_path, "put f", "mkdir d")
    assert stat.S_IMODE((tmp_path / "home/inner/d").stat().st_mode) == 0o700
    assert (tmp_path / "home/inner/f").exists()

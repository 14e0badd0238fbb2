"""The far half of scp's old protocol, with OpenSSH's scp as the near one, and with bytes that are no records."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import need_program
from tinyport.node.python_process import light_arguments
from tinyport.node.session import scp_fallback

LIMIT = 60


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """A PATH without scp."""
    return str(tmp_path / "nothing")


@pytest.fixture
def program(tmp_path: Path, nowhere: str) -> Path:
    """What scp takes for ssh: runs the command here, as a session on a machine without scp would."""
    script = tmp_path / "ssh"
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import os, sys; sys.path.append({str(root)!r}); from tinyport.node.session.scp_fallback import with_scp; "
        f"os.execv('/bin/sh', ['sh', '-c', with_scp(os.fsencode(sys.argv[-1]), '/bin/sh', {nowhere!r})])"
    )
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    script.chmod(0o755)
    return script


def scp(program: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [need_program("scp"), "-O", "-q", "-S", str(program), *words]
    return subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_001])
def test_one_file_both_ways(program: Path, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "from").write_bytes(data)
    (tmp_path / "to").write_bytes(b"x" * 2_000_000)
    for words in ((f"{tmp_path}/from", f"host:{tmp_path}/to"), (f"host:{tmp_path}/to", f"{tmp_path}/back")):
        done = scp(program, *words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "to").read_bytes() == data
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.parametrize("up", [True, False])
def test_a_folder_with_modes_and_times(program: Path, tmp_path: Path, up: bool) -> None:
    tree = tmp_path / "tree"
    (tree / "inner/deep").mkdir(parents=True)
    for name in ("a", "inner/b c", "inner/deep/ü"):
        (tree / name).write_bytes(os.urandom(5000))
    (tree / "a").chmod(0o751)
    os.utime(tree / "a", (1000, 2000))
    (tree / "inner").chmod(0o750)
    os.utime(tree / "inner", (3000, 4000))
    words = (str(tree), f"host:{tmp_path}/copy") if up else (f"host:{tree}", f"{tmp_path}/copy")
    done = scp(program, "-rp", *words)
    assert (done.returncode, done.stderr) == (0, b"")
    copy = tmp_path / "copy"
    for name in ("a", "inner/b c", "inner/deep/ü"):
        assert (copy / name).read_bytes() == (tree / name).read_bytes()
    assert stat.S_IMODE((copy / "a").stat().st_mode) == 0o751
    assert (copy / "a").stat().st_mtime == 2000
    assert (copy / "inner").stat().st_mtime == 4000
    assert stat.S_IMODE((copy / "inner").stat().st_mode) == 0o750


def test_wildcards_and_several_files(program: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "target").mkdir()
    assert scp(program, f"host:{tmp_path}/*.txt", str(tmp_path / "target")).returncode == 0
    assert sorted(os.listdir(tmp_path / "target")) == ["a.txt", "b.txt"]
    assert scp(program, f"{tmp_path}/a.txt", f"{tmp_path}/c", f"host:{tmp_path}/target").returncode == 0
    assert sorted(os.listdir(tmp_path / "target")) == ["a.txt", "b.txt", "c"]


def test_what_goes_wrong_is_said_and_the_rest_is_copied(program: Path, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("good")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").mkdir()
    names = [f"host:{tmp_path}/{name}" for name in ("none", "folder", "fifo", "good")]
    done = scp(program, *names, str(tmp_path / "target"))
    assert done.returncode == 1
    assert b"none: No such file" in done.stderr
    assert done.stderr.count(b"not a regular file") == 2
    assert os.listdir(tmp_path / "target") == ["good"]
    done = scp(program, str(tmp_path / "good"), f"host:{tmp_path}/none/x")
    assert done.returncode == 1
    assert b"No such file" in done.stderr
    done = scp(program, f"{tmp_path}/good", f"{tmp_path}/target/good", f"host:{tmp_path}/good")
    assert done.returncode == 1
    assert b"good: not a directory" in done.stderr


def serve(folder: Path, data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    argv = light_arguments("tinyport.node.session.scp_server", call="main()")
    return subprocess.run([*argv, *options], input=data, capture_output=True, timeout=LIMIT, check=False, cwd=folder)


@pytest.mark.parametrize(
    "record",
    [
        b"C0644 1 ../x\nx\0",
        b"C0644 1 ..\nx\0",
        b"D0755 0 .\nE\n",
        b"C0644 1 a/b\nx\0",
        b"C0644 1 \nx\0",
        b"C0644 -1 a\n",
        b"C0644 99999999999999999999 a\n",
        b"C9999 1 a\nx\0",
        b"C0644 1\n",
        b"E\n",
        b"T1 2 3\n",
        b"what\n",
        b"C0644 5 a\nx",
        b"D0755 0 d\n",
        b"C0644 1 " + b"n" * 20_000 + b"\n",
    ],
)
def test_records_that_are_none(tmp_path: Path, record: bytes) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    done = serve(inside, record, "-r", "-t", ".")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["inside"]
    assert set(os.listdir(inside)) <= {"a", "d"}


def test_a_folder_that_was_not_asked_for(tmp_path: Path) -> None:
    done = serve(tmp_path, b"D0755 0 d\nE\n", "-t", ".")
    assert done.returncode == 1
    assert not os.listdir(tmp_path)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_any_stream_ends(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    done = serve(folder, b"C0644 3 a\nabc\0" + data, "-r", "-p", "-t", ".")
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("-t",), ("-f",), ("a", "b"), ("-x", "-t", "."), ("-t", "-f", ".")])
def test_it_is_no_scp_for_people(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = serve(tmp_path, b"", *words)
    assert done.returncode == 1
    assert done.stderr.startswith(b"scp: ")


@pytest.mark.parametrize("command", [b"scp -t x", b"scp -v -r -p -d -t -- x y", b"scp -qf ~/x*", b"scp -f -- '\xff'"])
def test_which_commands_get_it(nowhere: str, command: bytes) -> None:
    made = scp_fallback.with_scp(command, "/bin/bash", nowhere)
    assert re.fullmatch(rb"scp\(\) \{ .* \"\$@\"; \}\n" + re.escape(command), made)
    assert scp_fallback.with_scp(command, "/usr/bin/fish", nowhere) == command
    assert scp_fallback.with_scp(command, "/bin/bash", os.path.dirname(need_program("scp"))) == command


@pytest.mark.parametrize("command", [b"scp a b:c", b"scp", b"scpx -t a", b"ls -t a", b"echo; scp -t a", b"scp --t a"])
def test_which_do_not(nowhere: str, command: bytes) -> None:
    assert scp_fallback.with_scp(command, "/bin/sh", nowhere) == command

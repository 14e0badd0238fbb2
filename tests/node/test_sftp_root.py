"""An sftp session in a root of its own: what is no safe root, and that nobody gets out of one."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.node.session_harness import LIMIT, Rig, wait_for
from tests.node.sftp_client import number
from tinyport.node.python_process import light_arguments
from tinyport.node.sftp import root as sftp_root
from tinyport.node.sftp import wire as w

pytestmark = pytest.mark.root

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def jail() -> Iterator[Path]:
    """A safe root with a folder ``in`` that nobody owns. Below /, since /tmp is everybody's."""
    base = Path(tempfile.mkdtemp(prefix="tinyport-test-", dir="/srv" if os.path.isdir("/srv") else "/"))
    base.chmod(0o755)
    root = base / "jail"
    root.mkdir(mode=0o755)
    (root / "in").mkdir()
    os.chown(root / "in", NOBODY.pw_uid, NOBODY.pw_gid)
    (base / "outside").write_text("secret")
    (base / "outside").chmod(0o666)
    try:
        yield root
    finally:
        shutil.rmtree(base)


def test_a_safe_root(jail: Path) -> None:
    os.close(sftp_root.open_safely(str(jail)))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_others_can_write_it(jail: Path, mode: int) -> None:
    for folder in (jail, jail.parent):
        folder.chmod(mode)
        with pytest.raises(sftp_root.UnsafeRoot, match=f"{folder} must be writable by root alone"):
            sftp_root.open_safely(str(jail))
        folder.chmod(0o755)


def test_others_own_it(jail: Path) -> None:
    for folder in (jail, jail.parent):
        os.chown(folder, NOBODY.pw_uid, -1)
        with pytest.raises(sftp_root.UnsafeRoot, match=f"{folder} must belong to root"):
            sftp_root.open_safely(str(jail))
        os.chown(folder, 0, -1)


def test_links_files_and_nothing(jail: Path) -> None:
    (jail.parent / "link").symlink_to("jail")
    for name, words in (("link", "is a link"), ("outside", "is a link, or no folder"), ("none", "No such file")):
        with pytest.raises(sftp_root.UnsafeRoot, match=words):
            sftp_root.open_safely(str(jail.parent / name))
    for path in ("", "/", "jail", f"{jail}/..", f"{jail}/./in", "/srv\0"):
        with pytest.raises(sftp_root.UnsafeRoot):
            sftp_root.open_safely(path)


class Server:
    """The server in its root as nobody, spoken to packet by packet."""

    def __init__(self, jail: Path, *options: str) -> None:
        identity = f"{NOBODY.pw_uid}:{NOBODY.pw_gid}:{NOBODY.pw_gid}"
        argv = light_arguments("tinyport.node.sftp.sftp", call="main()")
        argv += ["--become", identity, "--root", str(jail), *options]
        # A descriptor of the real root, left open by mistake, must not be there.
        leak = os.open("/", os.O_RDONLY)
        try:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[leak]
            )
        finally:
            os.close(leak)
        self.send(b"\x01" + number(3))

    def send(self, packet: bytes) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(w.string(packet))
        self.process.stdin.flush()
        head = self.process.stdout.read(4)
        assert len(head) == 4, self.process.stderr and self.process.stderr.read()
        return self.process.stdout.read(int.from_bytes(head, "big"))

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        answer = self.send(bytes((kind,)) + number(1) + body)
        return answer[0], answer[5:]

    def status(self, kind: int, *paths: str, rest: bytes = b"") -> int:
        kind, payload = self.ask(kind, b"".join(w.string(os.fsencode(path)) for path in paths) + rest)
        assert kind == w.STATUS, payload
        return int.from_bytes(payload[:4], "big")

    def end(self) -> None:
        self.process.communicate(timeout=LIMIT)


@pytest.fixture
def server(jail: Path) -> Iterator[Server]:
    made = Server(jail)
    yield made
    made.end()


READ = number(w.FLAG_READ) + w.NO_ATTRIBUTES


def test_nobody_gets_out(server: Server, jail: Path) -> None:
    assert server.ask(w.REALPATH, w.string(b"../../.."))[1][4:9] == w.string(b"/")
    outside = str(jail.parent / "outside")
    for path in ("../outside", "/../outside", "/in/../../outside", outside):
        assert server.status(w.OPEN, path, rest=READ) == w.NO_SUCH_FILE
    for target in (outside, "../../outside", "/proc/1/root/etc/passwd", "/"):
        assert server.status(w.SYMLINK, target, "/in/link") == w.OK
        assert server.status(w.OPEN, "/in/link/outside", rest=READ) == w.NO_SUCH_FILE
        if target != "/":
            assert server.status(w.OPEN, "/in/link", rest=READ) == w.NO_SUCH_FILE
        assert server.status(w.REMOVE, "/in/link") == w.OK
    # Neither names nor links lead across, and the root itself is not the user's.
    extension = w.string(b"hardlink@openssh.com")
    for body in (w.string(outside.encode()) + w.string(b"/in/hard"), w.string(b"../outside") + w.string(b"/in/hard")):
        kind, payload = server.ask(w.EXTENDED, extension + body)
        assert (kind, payload[:4]) == (w.STATUS, number(w.NO_SUCH_FILE))
    assert server.status(w.MKDIR, "/in/d", rest=w.NO_ATTRIBUTES) == w.OK
    assert server.status(w.RENAME, "/in/d", "/../d") == w.PERMISSION_DENIED
    assert server.status(w.MKDIR, "/new", rest=w.NO_ATTRIBUTES) == w.PERMISSION_DENIED
    assert (jail / "in/d").stat().st_uid == NOBODY.pw_uid
    assert sorted(os.listdir(jail.parent)) == ["jail", "outside"]


def test_what_the_process_is(server: Server, jail: Path) -> None:
    pid = server.process.pid
    status = status_of(str(pid))
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
    assert os.readlink(f"/proc/{pid}/root") == str(jail)
    assert os.readlink(f"/proc/{pid}/cwd") == str(jail)
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    # Not to be written into by others of that user (ptrace(2), PR_SET_DUMPABLE).
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0


def test_names_inside_are_those_from_before(server: Server, jail: Path) -> None:
    # The root's own files are not asked who is who.
    (jail / "etc").mkdir()
    (jail / "etc/passwd").write_text(f"evil:x:{NOBODY.pw_uid}:0::/:/\nmallory:x:4242:0::/:/\n")
    kind, payload = server.ask(
        w.EXTENDED,
        w.string(b"users-groups-by-id@openssh.com") + w.string(number(NOBODY.pw_uid) + number(4242)) + w.string(b""),
    )
    assert kind == w.EXTENDED_REPLY
    assert payload == w.string(w.string(b"nobody") + w.string(b"")) + w.string(b"")
    kind, payload = server.ask(w.EXTENDED, w.string(b"expand-path@openssh.com") + w.string(b"~mallory"))
    assert (kind, payload[:4]) == (w.STATUS, number(w.NO_SUCH_FILE))


def test_an_unsafe_root_serves_nobody(jail: Path) -> None:
    jail.chmod(0o777)
    argv = light_arguments("tinyport.node.sftp.sftp", call="main()")
    argv += ["--become", f"{NOBODY.pw_uid}:{NOBODY.pw_gid}:", "--root", str(jail)]
    done = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert b"must be writable by root alone" in done.stderr


# ---------------------------------------------------------------------------- through a keeper, with OpenSSH's client


@pytest.fixture
def rig(tmp_path: Path, jail: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, privileged=True, user={"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}, worker_idle=0)
    everywhere = {"logins": ["*"], "node_labels": {"*": ["*"]}}
    rig.authority.roles["confined"] = {
        "name": "confined",
        "allow": everywhere,
        "options": {"sftp_root": f"{jail.parent}/{{{{traits.folder}}}}"},
    }
    rig.authority.roles["reader"] = {"name": "reader", "allow": everywhere, "options": {"sftp": "read-only"}}
    (tmp_path / "policy.json").write_text(json.dumps(rig.authority.policy()))
    rig.start()
    yield rig
    rig.stop()


def sftp(rig: Rig, *commands: str) -> subprocess.CompletedProcess[bytes]:
    words = [need_program("sftp"), "-b", "-", *rig.options(), "-P", str(rig.port), "nobody@127.0.0.1"]
    return subprocess.run(
        words, input="\n".join(commands).encode(), capture_output=True, timeout=LIMIT, check=False, cwd=rig.folder
    )


def test_a_confined_role(rig: Rig, jail: Path) -> None:
    rig.give_certificate(logins=["nobody"], roles=["confined"], traits={"folder": ["jail"]})
    (rig.folder / "text").write_text("hello")
    done = sftp(rig, "pwd", "put text in/text", "ls -l /in", "get in/text back")
    assert done.returncode == 0, done.stderr
    assert b"Remote working directory: /\n" in done.stdout
    assert b"nobody" in done.stdout
    assert (jail / "in/text").stat().st_uid == NOBODY.pw_uid
    assert (rig.folder / "back").read_text() == "hello"
    assert sftp(rig, "get ../outside").returncode != 0
    # Nothing but files.
    for words in (("true",), ()):
        refused = rig.ssh(*words, login="nobody")
        assert refused.returncode == 255, refused
        assert b"your roles do not permit" in refused.stderr


def test_the_server_is_the_user_in_all(rig: Rig, jail: Path) -> None:
    rig.give_certificate(logins=["nobody"], roles=["confined"], traits={"folder": ["jail"]})
    words = ["ssh", *rig.options(), "-p", str(rig.port), "-s", "nobody@127.0.0.1", "sftp"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(w.string(b"\x01" + number(3)))
        client.stdin.flush()
        assert client.stdout.read(5)[4] == w.VERSION_ANSWER
        (status,) = [status_of(pid) for pid in os.listdir("/proc") if pid.isdigit() and root_of(pid) == str(jail)]
        assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
        assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
        # And in none of root's groups.
        assert set(map(int, status["Groups"].split())) == set(os.getgrouplist("nobody", NOBODY.pw_gid))
        client.stdin.close()
        client.wait(LIMIT)


def root_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/root")
    except OSError:
        return ""


def status_of(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_a_root_that_is_not_safe_is_refused_and_logged(rig: Rig, jail: Path) -> None:
    rig.give_certificate(logins=["nobody"], roles=["confined"], traits={"folder": ["jail"]})
    jail.chmod(0o777)
    done = sftp(rig, "ls")
    assert done.returncode != 0
    assert b"cannot confine file transfer" in done.stderr
    assert str(jail).encode() not in done.stderr
    wait_for("the reason in the log", lambda: f"{jail} must be writable by root alone" in rig.log())


def test_a_role_that_only_reads(rig: Rig, jail: Path) -> None:
    rig.give_certificate(logins=["nobody"], roles=["reader", "confined"], traits={"folder": ["jail"]})
    (jail / "in/f").write_text("x")
    (rig.folder / "text").write_text("hello")
    assert sftp(rig, "get in/f here").returncode == 0
    for command in ("put text in/f", "rm in/f", "rename in/f in/g", "chmod 777 in/f", "mkdir in/d", "ln in/f in/g"):
        assert sftp(rig, command).returncode != 0, command
    assert os.listdir(jail / "in") == ["f"]
    assert (jail / "in/f").read_text() == "x"

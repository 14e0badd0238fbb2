"""What a worker that somebody took over finds around it: nothing to open, nowhere to go, nobody to become.

The attempts run in a process that confined itself as a worker does; the rest looks at real workers from outside.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.session_harness import LIMIT, Rig
from tinyport.node.monitor.status import lacks

NOBODY = pwd.getpwnam("nobody")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")

#: runs confined; prints what each attempt came to, as JSON
_ATTEMPTS = """
import ctypes, errno, fcntl, json, mmap, os, resource, signal, socket, sys
from tinyport.node.confinement import FILTER, enclose
from tinyport.node.worker.syscalls import restrict

user, before = json.loads(sys.argv[1]), json.loads(sys.argv[2])
if before is not None:
    os.setgroups([])
    os.setresgid(before, before, before)
    os.setresuid(before, before, before)
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
here = socket.create_server(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0tinyport-test-%d" % os.getpid())
abstract.listen()
status = open("/proc/self/status")
missing = enclose(user, memory=512 * 1024 * 1024)
status.seek(0)
held = {name: value.strip() for name, _, value in (line.partition(":") for line in status) if name.startswith("Cap")}
status.close()
limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC)]
if filtered:
    if not restrict():
        missing.append(FILTER)

def attempt(work):
    try:
        return ["done", repr(work())]
    except (OSError, MemoryError) as error:
        return [type(error).__name__, errno.errorcode.get(getattr(error, "errno", None) or 0, "")]

def connect(family, address):
    with socket.socket(family) as stream:
        stream.settimeout(5)
        stream.connect(address)

def called(name, *numbers):
    def work():
        if getattr(libc, name)(*numbers) < 0:
            number = ctypes.get_errno()
            raise OSError(number, name)
    return work

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

print(json.dumps({
    "missing": missing,
    "read": attempt(lambda: open("/etc/passwd").read()),
    "write": attempt(lambda: open("/tmp/tinyport-was-here", "w")),
    "make": attempt(lambda: os.mkdir("/made")),
    "list": attempt(lambda: os.listdir("/")),
    "escape": attempt(lambda: (os.chdir("../../.."), open("etc/passwd"))),
    "tcp": attempt(lambda: connect(socket.AF_INET, here.getsockname())),
    "abstract": attempt(lambda: connect(socket.AF_UNIX, abstract.getsockname())),
    "fork": attempt(fork),
    "exec": attempt(lambda: os.execv("/bin/sh", ["sh", "-c", "true"])),
    "root": attempt(lambda: os.setuid(0)),
    "raw": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "chroot": attempt(lambda: os.chroot("/")),
    "mount": attempt(called("mount", b"none", b"/", b"tmpfs", 0, None)),
    "trace": attempt(called("ptrace", 16, parent, 0, 0)),
    "signal": attempt(lambda: os.kill(parent, 0)),
    "memory": attempt(lambda: len(bytearray(1024 * 1024 * 1024))),
    "limits": limits,
    "capabilities": held,
    "linger": attempt(lambda: here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 60, 0, 0, 0]))),
    "owner": attempt(lambda: fcntl.fcntl(here, fcntl.F_SETOWN, parent)),
    "code": attempt(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)),
    "keyring": attempt(called("syscall", 250 if os.uname().machine == "x86_64" else 219, 0, -3, 1)),
}))
sys.stdout.flush()
"""


def attempts(user: dict[str, int] | None, before: int | None = None, *, filtered: bool = False) -> dict[str, Any]:
    """``before``: who to be from the start, without any privilege. ``filtered``: with the system-call filter, without
    which the rest must hold, too.
    """
    paths = [entry for entry in sys.path if entry]
    program = f"import sys; sys.path[:] = {[os.getcwd(), *paths]!r}; filtered = {filtered}\n{_ATTEMPTS}"
    command = [sys.executable, "-I", "-S", "-c", program, json.dumps(user), json.dumps(before)]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.root
@AS_ROOT
def test_nothing_is_left_to_try() -> None:
    found = attempts({"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid})
    assert found.pop("missing") == []
    assert found.pop("limits") == [[0, 0], [0, 0]]
    assert {int(held, 16) for held in found.pop("capabilities").values()} == {0}
    for name in ("linger", "owner", "code", "keyring"):
        # The filter's to refuse.
        found.pop(name)
    # execve(2): EAGAIN, too many processes for this user; there may be none.
    assert found.pop("exec")[1] in ("EACCES", "EAGAIN")
    assert {name: result[1] for name, result in found.items() if name not in ("memory", "signal")} == {
        "read": "EACCES",
        "write": "EACCES",
        "make": "EACCES",
        "list": "EACCES",
        "escape": "EACCES",
        "tcp": "ENETUNREACH",
        "abstract": "ECONNREFUSED",
        "fork": "EAGAIN",
        "root": "EPERM",
        "raw": "EPERM",
        "chroot": "EACCES",
        "mount": "EPERM",
        "trace": "EPERM",
    }
    assert found["memory"] == ["MemoryError", ""]
    # We are root here: not to be signalled either.
    assert found["signal"] == ["PermissionError", "EPERM"]
    assert not Path("/tmp/tinyport-was-here").exists()


@pytest.mark.root
@AS_ROOT
def test_the_filter_alone_would_do_for_most() -> None:
    found = attempts({"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}, filtered=True)
    _check_filtered(found)


def test_the_filter_needs_no_privilege() -> None:
    found = attempts(None, NOBODY.pw_uid if os.geteuid() == 0 else None, filtered=True)
    _check_filtered(found)


def _check_filtered(found: dict[str, Any]) -> None:
    if "a filter of system calls" in found["missing"]:
        pytest.skip("no filter on this machine")
    for name in ("missing", "limits", "capabilities", "memory"):
        found.pop(name)
    assert {name: result[1] for name, result in found.items()} == dict.fromkeys(found, "ENOSYS")


def test_without_privileges_as_much_as_the_system_allows() -> None:
    """A node that serves its own user. What cannot be had is named, and what is not named holds."""
    found = attempts(None, NOBODY.pw_uid if os.geteuid() == 0 else None)
    missing = found["missing"]
    assert set(missing) <= {"a network namespace of its own", "an empty root"}
    assert found["limits"] == [[0, 0], [0, 0]]
    assert found["root"][0] != "done"
    assert found["fork"][1] == "EAGAIN"
    # A user namespace comes with all of them.
    assert {int(held, 16) for name, held in found["capabilities"].items() if name != "CapBnd"} == {0}
    if not missing:
        assert int(found["capabilities"]["CapBnd"], 16) == 0
    assert (found["tcp"][0] == "done") == ("a network namespace of its own" in missing)
    assert (found["read"][0] == "done") == ("an empty root" in missing)


# ---------------------------------------------------------------------------- real workers, from outside


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
    rig = Rig(tmp_path, privileged=True, worker_user=user, worker_idle=0).start()
    yield rig
    rig.stop()


@pytest.mark.root
@AS_ROOT
def test_a_worker_while_it_serves(rig: Rig) -> None:
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (worker,) = rig.workers()
    here = Path(f"/proc/{worker}")
    status = dict(line.split(":\t", 1) for line in (here / "status").read_text().splitlines())
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert os.listdir(here / "root") == []
    assert os.readlink(here / "ns" / "net") != os.readlink("/proc/self/ns/net")
    assert os.readlink(here / "ns" / "ipc") != os.readlink("/proc/self/ns/ipc")
    # What `tinyport status` would say of it, and of somebody who has given up nothing.
    assert lacks(worker, enclosed=True) == []
    assert {"no filter of system calls", "the system's network", "the system's files"} <= set(
        lacks(os.getpid(), enclosed=True)
    )
    # What cannot be dumped belongs to root in /proc, whoever runs it: nobody of that user can look in.
    assert (here / "mem").stat().st_uid == 0
    # Sockets, pipes of its sessions, its selector. No file, no folder, nothing to a device but /dev/null.
    for entry in os.scandir(here / "fd"):
        mode, target = os.stat(entry.path).st_mode, os.readlink(entry.path)
        kinds = (stat.S_ISSOCK(mode), stat.S_ISFIFO(mode), target == "/dev/null", "anon_inode:[eventpoll]" in target)
        assert any(kinds) or entry.name in ("1", "2"), (entry.name, target)
    secrets = json.loads((rig.folder / "identity.json").read_text())
    environment = (here / "environ").read_bytes() + (here / "cmdline").read_bytes()
    assert secrets["ssh_key"].encode().splitlines()[1] not in environment
    process.communicate(timeout=LIMIT)


def _names(listing: bytes) -> list[str]:
    return listing.decode().split()


@pytest.mark.root
@AS_ROOT
def test_every_algorithm_works_behind_the_wall(rig: Rig) -> None:
    """Whatever is loaded late is loaded too late: there is no file to load it from."""
    ours = {
        "KexAlgorithms": ("curve25519-sha256", "mlkem768x25519-sha256", "sntrup761x25519-sha512@openssh.com",
                          "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
                          "diffie-hellman-group14-sha256", "diffie-hellman-group16-sha512",
                          "diffie-hellman-group18-sha512", "diffie-hellman-group-exchange-sha256"),
        "Ciphers": ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
                    "aes128-ctr", "aes256-ctr"),
        "MACs": ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256"),
    }  # fmt: skip
    queries = {"KexAlgorithms": "kex", "Ciphers": "cipher", "MACs": "mac"}
    worked = set()
    for option, names in ours.items():
        known = _names(subprocess.run(["ssh", "-Q", queries[option]], capture_output=True, check=True).stdout)
        for name in names:
            if name not in known:
                continue
            more = ["-o", "Ciphers=aes128-ctr"] if option == "MACs" else []
            done = rig.ssh("-o", f"{option}={name}", *more, "echo", "in")
            if b"no matching" in done.stderr:
                # Not on our offer: that is another test's matter.
                continue
            assert done.stdout == b"in\n", (name, done.stderr, rig.log())
            worked.add(name)
    assert {"curve25519-sha256", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"} <= worked
    assert "Traceback" not in rig.log()
    assert "ModuleNotFoundError" not in rig.log()


@pytest.mark.root
@AS_ROOT
def test_one_connection_a_worker(tmp_path: Path) -> None:
    rig = Rig(tmp_path, connections_per_worker=1, worker_idle=0).start()
    try:
        first, second = rig.popen("echo a; cat"), rig.popen("echo b; cat")
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() in (b"a\n", b"b\n")
        assert len(rig.workers()) == 2
        for process in (first, second):
            process.communicate(timeout=LIMIT)
    finally:
        rig.stop()

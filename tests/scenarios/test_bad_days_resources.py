"""What a node does when its machine has nothing left: disk, terminals, descriptors, memory. Each time the person reads
why, the operator finds a line in the log, and all is well again afterwards by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import LIMIT, Cluster, alive, text, wait_for
from tests.scenarios.test_recordings import person, recordings, say, session, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root: mounts")]

Start = Callable[[str], Cluster]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A cluster in a mount namespace of its own, in which ``script`` ran before."""
    need_program("unshare")
    made: list[Cluster] = []

    def go(script: str) -> Cluster:
        folder = tmp_path / "data" / "node"
        folder.mkdir(parents=True)
        around = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}; exec "$@"', "sh"]
        made.append(Cluster(tmp_path, [word.replace("NODE", str(folder)) for word in around]).start())
        return made[-1]

    yield go
    for cluster in made:
        cluster.stop()


def inside(cluster: Cluster) -> Path:
    """The node's folder as the node sees it."""
    return Path(f"/proc/{cluster.ready['pids']['node']}/root") / str(cluster.data / "node").lstrip("/")


def in_its_namespace(cluster: Cluster, *words: str) -> None:
    command = ["nsenter", "--mount", f"--target={cluster.ready['pids']['node']}", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)


def process(cluster: Cluster, name: str) -> int:
    """The pid of one of the node's processes."""

    def below(pid: int) -> list[int]:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [*map(int, children), *(found for child in children for found in below(int(child)))]

    def found() -> int:
        for pid in below(int(cluster.ready["pids"]["node"])):
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return pid
            except OSError:
                continue
        return 0

    return int(wait_for(name, found))


def ssh(cluster: Cluster, user: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return cluster.tsh("ssh", f"{cluster.login_name}@{cluster.node}", *words, home=user)


def gets_in(cluster: Cluster, user: str) -> None:
    done = ssh(cluster, user, "echo in")
    assert done.stdout == b"in\n", f"{text(done)}\n{cluster.log()}"


def lock(cluster: Cluster, user: str) -> str:
    made = cluster.tctl_json("lock", "--user", user)
    return str(made.get("id") or made["lock"]["id"])


def a_disk_that_takes_nothing(cluster: Cluster, user: str, mallory: str, again: Callable[[], None]) -> None:
    """Sessions go on, a lock holds, also for a keeper that is started afterwards; then ``again`` there is room."""
    gets_in(cluster, user)
    identifier = lock(cluster, mallory)
    host, _, port = cluster.ready["node"].rpartition(":")
    name = f"{cluster.node}.{cluster.tctl_json('status')['cluster']}"
    straight = ["-o", "ProxyCommand=none", "-o", f"HostName={host}", "-o", f"HostKeyAlias={name}", "-p", port]

    def asks() -> subprocess.CompletedProcess[bytes]:
        words = ["ssh", "-F", str(cluster.ssh_config(mallory)), "-o", "BatchMode=yes", *straight]
        return cluster.run(*words, f"{cluster.login_name}@{name}", "echo in", home=mallory)

    wait_for("the lock to reach the node", lambda: asks().returncode == 255)
    # Its successor reads the old policy from the disk. Link has the new one.
    keeper = process(cluster, "tinyport-keeper")
    os.kill(keeper, signal.SIGKILL)
    wait_for("the keeper to be gone", lambda: not alive(keeper))
    done = asks()
    assert done.returncode == 255, text(done)
    gets_in(cluster, user)
    again()
    assert cluster.tctl("unlock", identifier).returncode == 0
    wait_for("the node to hear of it", lambda: asks().returncode == 0)
    # What is on the disk is current again.
    assert mallory not in str((inside(cluster) / "policy.json").read_text())


def test_a_full_disk(start: Start) -> None:
    cluster = start("mount -t tmpfs -o size=4m tmpfs NODE")
    user, mallory = (cluster.add_user(name, cluster.login_name) for name in ("wendy", "mallory"))
    gets_in(cluster, user)
    filler = inside(cluster) / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, timeout=LIMIT, check=False)
    assert os.statvfs(inside(cluster)).f_bavail == 0
    a_disk_that_takes_nothing(cluster, user, mallory, filler.unlink)


ECHO = "echo here; while read line; do echo got-$line; done"


def found(cluster: Cluster) -> list[dict[str, Any]]:
    return [one for one in recordings(cluster, "wendy") if one.get("command") == ECHO]


def while_auths_disk_is_full(cluster: Cluster, filler: Path, user: str, recorded: subprocess.Popen[bytes]) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, timeout=LIMIT, check=False)
    assert os.statvfs(filler.parent).f_bavail == 0

    def takes_nothing() -> bool:
        # The write-ahead log has some room of its own, until it is used.
        return cluster.tctl("lock", "--login", "nobody", "--ttl", "1h").returncode != 0

    wait_for("the disk to be full", takes_nothing)
    cluster.login("wendy")
    gets_in(cluster, user)
    assert recorded.stdout is not None
    say(recorded, b"meanwhile")
    until(recorded.stdout, b"got-meanwhile")
    refused = cluster.tctl("users", "add", "ben", "--logins", "pi", "--roles", "access")
    assert refused.returncode == 1
    assert b"takes nothing more" in refused.stderr, text(refused)
    filler.unlink()
    cluster.login("wendy")
    (gap,) = [event for event in cluster.tctl_json("audit", "--type", "events.lost")["events"] if "sender" in event]
    assert (gap["sender"], gap["count"] >= 1) == ("auth", True)
    assert cluster.tctl("audit", "verify").returncode == 0


def test_a_full_disk_of_auth(tmp_path: Path) -> None:
    """Logins and access go on; the audit log says afterwards what is not in it."""
    need_program("mount")
    auth = tmp_path / "data" / "auth"
    auth.mkdir(parents=True, mode=0o700)
    auth.parent.chmod(0o700)
    # Not in a namespace: tctl has to find auth's socket there.
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(auth)]
    subprocess.run(mount, check=True, capture_output=True, timeout=LIMIT)
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        user = person(cluster, "wendy", "node")
        gets_in(cluster, user)
        with session(cluster, user, ECHO, "-t") as recorded:
            while_auths_disk_is_full(cluster, auth / "filler", user, recorded)
            assert recorded.stdout is not None
            say(recorded, b"after")
            until(recorded.stdout, b"got-after")
            recorded.communicate(b"\x04", timeout=LIMIT)
        # It waited in its pipe while there was no room for it.
        one = wait_for("the recording", lambda: [one for one in found(cluster) if one["state"] == "complete"])[0]
        shown = cluster.tctl("recordings", "export", one["id"]).stdout
        assert b"got-meanwhile" in shown
        assert b"got-after" in shown
    finally:
        cluster.stop()
        subprocess.run(["umount", "--lazy", str(auth)], check=True, capture_output=True, timeout=LIMIT)


def test_a_read_only_file_system(start: Start) -> None:
    cluster = start("mount -t tmpfs tmpfs NODE")
    user, mallory = (cluster.add_user(name, cluster.login_name) for name in ("wendy", "mallory"))
    gets_in(cluster, user)
    folder = str(cluster.data / "node")

    def remount(how: str) -> None:
        in_its_namespace(cluster, "mount", "-o", f"remount,{how}", folder)

    # Link holds no file of the spool open for writing while it has nothing to keep.
    remount("ro")
    a_disk_that_takes_nothing(cluster, user, mallory, lambda: remount("rw"))


def test_a_read_only_root(start: Start, tmp_path: Path) -> None:
    """Everything but the folders of the cluster itself: /tmp, /var/log, /run, the interpreter's own."""
    cluster = start(f"mount --bind {tmp_path} {tmp_path}")
    user = cluster.add_user("wendy", cluster.login_name)
    gets_in(cluster, user)
    in_its_namespace(cluster, "mount", "-o", "remount,bind,ro", "/")
    assert b"Read-only" in ssh(cluster, user, "echo > /etc/tinyport-test").stderr
    keeper = process(cluster, "tinyport-keeper")
    os.kill(keeper, signal.SIGKILL)
    wait_for("the keeper to be gone", lambda: not alive(keeper))
    # Another keeper and another worker, a terminal, sftp.
    gets_in(cluster, user)
    assert b"/dev/pts/" in ssh(cluster, user, "-t", "tty").stdout
    sftp = ["sftp", "-F", str(cluster.ssh_config(user)), "-b", "-"]
    sftp.append(f"{cluster.login_name}@{cluster.node}.{cluster.tctl_json('status')['cluster']}")
    listed = cluster.run(*sftp, home=user, input=b"ls /etc/passwd\n")
    assert b"/etc/passwd" in listed.stdout, text(listed)
    # The agent's socket has no place: a word about it, and the session all the same.
    done = cluster.run(
        "ssh-agent", "sh", "-c", f"{tsh(cluster)[0]} ssh -A {cluster.login_name}@{cluster.node} 'echo in'", home=user
    )
    assert done.stdout == b"in\n", text(done)
    assert "Traceback" not in cluster.log()


@pytest.mark.slow
def test_no_terminal_left(start: Start) -> None:
    cluster = start(
        "mount -t devpts -o newinstance,ptmxmode=0666,mode=620,max=1 devpts /dev/pts;"
        " mount --bind /dev/pts/ptmx /dev/ptmx"
    )
    user = cluster.add_user("wendy", cluster.login_name)
    words = [f"{cluster.login_name}@{cluster.node}", "echo in; cat"]
    command = [str(word) for word in (*tsh(cluster), "ssh", "-t", *words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cluster.env(user)) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\r\n"
        refused = ssh(cluster, user, "-t", "echo in")
        assert refused.returncode == 255, text(refused)
        assert b"terminal" in refused.stderr or b"No space left" in refused.stderr, text(refused)
        # Who needs none gets in.
        gets_in(cluster, user)
        first.communicate(b"\x04", timeout=LIMIT)
    assert "exec.failed" in cluster.tctl("audit", "--format", "json").stdout.decode() or "terminal" in cluster.log()
    wait_for("the terminal to be free", lambda: ssh(cluster, user, "-t", "echo in").stdout == b"in\r\n")


def tsh(cluster: Cluster) -> list[str]:
    from tests.scenarios.cluster import BIN

    return [str(BIN / "tsh")]


def allow_files(pid: int, limit: int) -> None:
    """The soft limit on open files of a process, set as its user: root may lack CAP_SYS_RESOURCE in a container."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    uid, gid = status["Uid"].split()[0], status["Gid"].split()[0]
    become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    words = [*become, "prlimit", f"--pid={pid}", f"--nofile={limit}:"]
    subprocess.run(words, check=True, capture_output=True, timeout=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyport-link", "tinyport-keeper", "tinyport-worker"])
def test_no_descriptor_left(fragile: Cluster, name: str) -> None:
    need_program("setpriv")
    user = fragile.add_user("wendy", fragile.login_name)
    gets_in(fragile, user)
    pid = process(fragile, name)
    # Each step of the others has a test of its own: node/test_keeper_descriptors.py.
    for more in range(1, 7 if name == "tinyport-link" else 2):
        highest = max(int(entry) for entry in os.listdir(f"/proc/{pid}/fd"))
        allow_files(pid, highest + more)
        done = ssh(fragile, user, "echo in")
        # An answer, and no end of the process.
        assert done.returncode in (0, 255), text(done)
        assert b"Traceback" not in done.stderr
        assert alive(pid), fragile.log()
        allow_files(pid, 1024)
    wait_for("people to get in again", lambda: ssh(fragile, user, "echo in").stdout == b"in\n")
    assert alive(pid), fragile.log()
    assert "Traceback" not in fragile.log()

"""The monitor as a process: started by the launcher, with a real keeper, ending with all that it started."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_program
from tests.link.test_enrolment import TinyAuth
from tests.node.tiny_cluster import DAY, LIMIT, Cluster, TunnelEnd
from tinyport.core.certificate import public_line
from tinyport.core.errors import OperatorError, Unavailable
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_before, identity_file
from tinyport.node.monitor import status as monitor_status
from tinyport.node.monitor.link import Inheritance, times_slept
from tinyport.node.monitor.listen import listen
from tinyport.node.monitor.monitor import Monitor
from tinyport.node.monitor.renewal import DUE, due_at

_CODE = """
import json, sys
from pathlib import Path
from tinyport.core.errors import TinyportError
from tinyport.node.launcher import run
from tinyport.node.settings import NodeSettings
told = json.loads(sys.argv[1])
told["data_dir"] = Path(told["data_dir"])
told["ready_file"] = Path(told["ready_file"])
for name in ("server", "listen", "ca_pins"):
    told[name] = tuple(tuple(item) if isinstance(item, list) else item for item in told[name])
try:
    run(NodeSettings(**told))
except TinyportError as error:
    sys.exit(f"tinyport: error: {error.message}")
"""


def wait_for(what: str, check: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT
    while not (found := check()):
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Node:
    """A node process and the folder that it lives in."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.data = folder / "data"
        self.log = folder / "log"
        self.ready = folder / "ready"
        self.server = socket.create_server(("127.0.0.1", 0))
        self.process: subprocess.Popen[bytes] | None = None
        self._ends: list[TunnelEnd] = []

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.getsockname()[:2]
        return host, port

    def start(self, inherit: Sequence[int] = (), around: Sequence[str] = (), **changes: object) -> None:
        settings: dict[str, object] = {
            "data_dir": str(self.data),
            "nodename": "shed",
            "server": self.address,
            "listen": [("127.0.0.1", 0)],
            "ca_pins": [self.cluster.pin],
            "user": "nobody" if os.geteuid() == 0 else None,
            "ready_file": str(self.ready),
            **changes,
        }
        argv = [*around, sys.executable, "-c", _CODE, json.dumps(settings)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherit)

    def joined(self) -> dict[str, object]:
        return self.cluster.joined(self.data, self.address)

    def tunnel(self) -> TunnelEnd:
        """Answer link's next tunnel."""
        while True:
            try:
                end = TunnelEnd(self.server, self.cluster.server("proxy", "tinyport-tunnel"))
            except (ssl.SSLError, ConnectionError):
                # What a link that was killed had on its way to auth.
                continue
            self._ends.append(end)
            end.greet(self.cluster)
            return end

    def status(self) -> dict[str, Any]:
        """What the monitor says of itself, as soon as it does."""

        def asked() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = monitor_status.ask(self.data)
            except Unavailable:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
                return None
            return found

        found: dict[str, Any] = wait_for("the status", asked)
        return found

    def until(self, what: str, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(what, lambda: (status := self.status()) if check(self.status()) else None)
        return found

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(LIMIT)

    def stop(self) -> None:
        for end in self._ends:
            end.close()
        self.stop_process()
        self.server.close()

    def stop_process(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LIMIT)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    made = Node(cluster, tmp_path)
    yield made
    made.stop()


def test_a_joined_node_starts_says_so_and_stops_with_all_it_started(node: Node) -> None:
    identity = node.joined()
    node.start()
    node.tunnel()
    wait_for("the ready file", node.ready.exists)
    ready = json.loads(node.ready.read_text())
    assert ready["uuid"] == identity["uuid"]
    assert ready["name"] == "shed"
    status = node.until("the tunnel", lambda status: status["tunnel"]["tunnel"] == "up")
    assert status["pid"] == ready["pid"] == node.process.pid  # type: ignore[union-attr]
    assert status["listen"] == ready["listen"]
    assert status["cluster"] == "farm"
    assert status["valid_before"] == identity["valid_before"]
    assert set(status["memory"][str(status["pid"])]) == {"pss", "rss", "private"}

    # Somebody comes: only now there is a keeper.
    host, _, port = ready["listen"][0].rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as client:
        client.sendall(b"SSH-2.0-test\r\n")
        assert client.recv(8) == b"SSH-2.0-"
    pids = node.status()["pids"]
    assert pids["keeper"]
    assert monitor_status.command_name(pids["link"]) == "tinyport-link"
    node.stop()
    assert node.process.returncode == 0  # type: ignore[union-attr]
    wait_for("all to end", lambda: not any(map(alive, [pids["link"], pids["keeper"], *pids["workers"]])))
    with pytest.raises(Unavailable):
        monitor_status.ask(node.data)


def test_link_is_started_again_and_keeps_its_keeper(node: Node) -> None:
    node.joined()
    node.start()
    first = node.tunnel()
    first.say({"op": "document", "signed": node.cluster.policy(serial=2)})
    before = node.until("a keeper", lambda status: status["pids"]["keeper"])["pids"]
    os.kill(before["link"], signal.SIGKILL)
    second = node.tunnel()
    after = node.until("link again", lambda status: status["pids"]["link"] not in (None, before["link"]))["pids"]
    assert after["keeper"] == before["keeper"]
    # The new link speaks with that keeper: what it is given goes into the next hello.
    second.say({"op": "document", "signed": node.cluster.policy(serial=3)})
    held = node.data / "node" / "policy.json"
    wait_for("the document", lambda: json.loads(json.loads(held.read_text())["document"])["serial"] == 3)


def test_a_link_that_hangs_is_started_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as often as systemd asks the monitor; one that answers goes on."""
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    node.joined()
    node.start()
    node.tunnel()
    before = node.until("link", lambda status: status["pids"]["link"])["pids"]["link"]
    os.kill(before, signal.SIGSTOP)
    node.tunnel()
    wait_for("its end", lambda: not alive(before))
    assert "link does not answer and is killed" in node.log.read_text()
    assert node.log.read_text().count("link died and is started again") == 1


def test_a_killed_keeper_is_replaced_when_needed(node: Node) -> None:
    node.joined()
    node.start()
    tunnel = node.tunnel()
    tunnel.say({"op": "document", "signed": node.cluster.policy(serial=2)})
    first = node.until("a keeper", lambda status: status["pids"]["keeper"])["pids"]["keeper"]
    os.kill(first, signal.SIGKILL)
    node.until("its end", lambda status: status["pids"]["keeper"] != first)
    tunnel.say({"op": "document", "signed": node.cluster.policy(serial=4)})
    held = node.data / "node" / "policy.json"
    wait_for("the document", lambda: json.loads(json.loads(held.read_text())["document"])["serial"] == 4)


def test_everything_ends_when_the_monitor_is_killed(node: Node) -> None:
    node.joined()
    node.start()
    node.tunnel().say({"op": "document", "signed": node.cluster.policy(serial=2)})
    pids = node.until("a keeper", lambda status: status["pids"]["keeper"])["pids"]
    assert node.process is not None
    node.process.kill()
    wait_for("all to end", lambda: not alive(pids["link"]) and not alive(pids["keeper"]))


def test_one_node_for_one_folder(node: Node) -> None:
    node.joined()
    node.start()
    node.status()
    first, node.process = node.process, None
    assert first is not None
    try:
        node.start()
        assert node.wait() == 1
        assert "same data_dir" in node.log.read_text()
    finally:
        first.terminate()
        first.wait(LIMIT)


def test_a_taken_port_is_named(node: Node) -> None:
    node.joined()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node.start(listen=[("127.0.0.1", port)])
        assert node.wait() == 1
    text = node.log.read_text()
    reason = os.strerror(errno.EADDRINUSE).lower()
    assert f"tinyport: error: cannot listen on 127.0.0.1:{port}: {reason}" in text
    assert "tinyport: hint: " in text
    assert "Traceback" not in text


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(OperatorError, match=r"cannot listen on 192\.0\.2\.1:0"):
        listen("192.0.2.1", 0)


def test_all_addresses_are_both_kinds() -> None:
    with listen("::", 0) as stream:
        port = stream.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), LIMIT).close()


@pytest.mark.root
def test_link_is_nobody_and_the_spool_is_its_own(node: Node) -> None:
    node.joined()
    node.start(user="nobody")
    pids = node.until("link", lambda status: status["tunnel"]["reason"] != "starting")["pids"]
    lines = Path(f"/proc/{pids['link']}/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1:] for line in lines}
    uid = fields["Uid"][0]
    assert uid != "0"
    assert fields["Uid"] == [uid] * 4
    assert set(fields["Gid"]) != {"0"}
    assert fields["Groups"] == []
    assert fields["CapEff"] == ["0" * 16]
    assert str((node.data / "node" / "spool").stat().st_uid) == uid
    assert (node.data / "node").stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_link_finds_nothing_open_but_its_own(node: Node) -> None:
    """It is forked from root: what root has open, or whoever started it had, is not for link."""
    node.joined()
    leak = os.memfd_create("left-open", 0)
    os.set_inheritable(leak, True)
    try:
        node.start(user="nobody", inherit=[leak])
    finally:
        os.close(leak)
    node.tunnel()
    status = node.until("the tunnel", lambda status: status["tunnel"]["tunnel"] == "up")
    assert status["lacks"] == {str(status["pids"]["link"]): []}
    entries = {entry.name: os.readlink(entry.path) for entry in os.scandir(f"/proc/{status['pids']['link']}/fd")}
    found = [entries.pop(name) and name for name in ("0", "1", "2")]
    assert found == ["0", "1", "2"]
    folders = [target for target in entries.values() if target.startswith("/")]
    assert folders == [str(node.data / "node" / "spool")]
    rest = [target for target in entries.values() if not target.startswith(("/", "socket:", "pipe:", "anon_inode:"))]
    assert rest == [], entries
    environment = Path(f"/proc/{status['pids']['link']}/environ").read_bytes()
    assert b"TOKEN" not in environment.upper()


def test_the_host_key_is_in_neither_process(node: Node) -> None:
    identity = node.joined()
    node.start()
    node.tunnel()
    pids = node.until("the tunnel", lambda status: status["tunnel"]["tunnel"] == "up")["pids"]
    # The middle of the PEM text: no line end in it, and nothing that other keys share.
    secret = str(identity["ssh_key"]).splitlines()[3].encode()[:48]
    try:
        # Whoever made it has it, so the search works.
        assert _holds(os.getpid(), secret)
        assert not _holds(pids["monitor"], secret)
        assert not _holds(pids["link"], secret)
    except PermissionError:
        pytest.skip("may not look into processes here")


def _holds(pid: int, secret: bytes) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            if " rw" not in line:
                continue
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(start)
            try:
                if secret in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


def test_a_certificate_that_is_due_is_renewed_and_link_takes_it(node: Node) -> None:
    auth = TinyAuth(node.cluster)
    try:
        identity = node.cluster.joined(node.data, auth.address)
        now = int(time.time())
        identity.update(valid_after=now - 6 * DAY, valid_before=now + DAY)
        identity_file.save(node.data / "node" / "identity.json", identity)
        key = Ed25519Key.from_openssh(str(identity["ssh_key"]).encode())
        auth.joined[public_line(key.public_blob)] = str(identity["uuid"])
        auth.now = now
        # In this test auth is reached directly; the node renews where its configuration says.
        node.start(server=auth.address)
        first = node.status()["pids"]["link"]
        status = node.until("the renewal", lambda status: status["generation"] == 2)
        assert status["valid_before"] == now + 7 * DAY
        node.until("a link with the new certificate", lambda status: status["pids"]["link"] not in (None, first))
        held = identity_file.load(node.data / "node" / "identity.json")
        assert held["generation"] == 2
        assert held["tls_key"] != identity["tls_key"]
    finally:
        node.stop()
        auth.stop()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root: mounts")
@pytest.mark.parametrize(
    ("left", "said"), [(2 * DAY, "the disk takes no certificate"), (DAY - 600, "does not take the new certificate")]
)
def test_a_certificate_that_no_disk_takes_is_kept_in_memory(node: Node, left: int, said: str) -> None:
    """On its last day: until then the disk may come back, and a reboot finds what it had."""
    need_program("unshare")
    auth = TinyAuth(node.cluster)
    folder = node.data / "node"
    try:
        identity = node.cluster.joined(node.data, auth.address)
        key = Ed25519Key.from_openssh(str(identity["ssh_key"]).encode())
        auth.joined[public_line(key.public_blob)] = str(identity["uuid"])
        auth.now = now = int(time.time())
        identity.update(valid_after=now + left - 7 * DAY, valid_before=now + left)
        identity_file.save(folder / "identity.json", identity)
        around = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
        around += [f'mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}; exec "$@"', "sh"]
        node.start(server=auth.address, around=around)
        wait_for(f"the node to say: {said}", lambda: said in node.log.read_text())
        assert identity_file.load(folder / "identity.json") == identity
        assert auth.paths().count("/v1/renew") == (1 if left < DAY else 0)
        assert "Traceback" not in node.log.read_text()
    finally:
        node.stop()
        auth.stop()


def test_renewal_is_due_at_two_thirds() -> None:
    assert due_at({"valid_after": 1000, "valid_before": 1000 + 900}) == 1000 + 900 * DUE


def test_no_node_no_status(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        monitor_status.ask(tmp_path)


def test_what_is_put_aside_in_memory_is_the_half_of_what_lies_on_the_disk(tmp_path: Path) -> None:
    """Certificate and key of one identity with the CAs of another would be none: also when a node whose place was taken
    has booted anew in between, which leaves nothing to go back to."""

    def secret(text: bytes) -> int:
        descriptor = os.memfd_create("secret")
        os.pwrite(descriptor, text, 0)
        return descriptor

    def kept() -> bytes | None:
        before = monitor._given.before
        return None if before is None else os.pread(before, 100, 0)

    def replaced(generation: int, *, puts_aside: bool = True, boots: bool = False) -> None:
        held = {"tls_certificate": "", "tls_key": "", "tls_cas": ["CA"], "valid_before": 1e12, "generation": generation}
        if boots:
            identity_before.drop(tmp_path)
        elif puts_aside:
            identity_before.keep(tmp_path, held, 0.0, secret=False)
        monitor._given.public = {"generation": generation}
        monitor._view = (os.memfd_create("public"), secret(b"%d" % generation))
        monitor._put_aside()

    monitor = object.__new__(Monitor)
    monitor._folder_name, monitor._config = str(tmp_path), {"in_memory": True}
    monitor._given = Inheritance({}, {}, -1, [], [])
    replaced(1)
    assert kept() == b"1"
    replaced(2)
    assert kept() == b"1"
    replaced(3, boots=True)
    assert kept() is None
    replaced(4)
    assert kept() == b"4"
    # A disk that takes nothing.
    identity_before.drop(tmp_path)
    replaced(5, puts_aside=False)
    assert kept() is None


def test_who_sleeps_between_is_told_from_who_is_stopped_or_runs_in_circles() -> None:
    code = "import sys, time\nfor _ in sys.stdin: time.sleep(0.001); print(flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]

        def turn() -> int:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"\n"
            slept = times_slept(process.pid)
            assert slept is not None
            return slept

        first = turn()
        assert turn() > first
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = times_slept(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert times_slept(process.pid) == stopped
        process.kill()
    assert times_slept(process.pid) is None

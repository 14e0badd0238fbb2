"""A node as a service of systemd's: readiness, signs of life, sockets that systemd holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.test_monitor import _CODE, Node
from tests.node.tiny_cluster import LIMIT, Cluster
from tinyport.host import activation
from tinyport.node.monitor.listen import Listeners


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    made = Node(cluster, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen for what services say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(LIMIT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(manager: socket.socket, line: str) -> None:
    """Wait until the service has said this line."""
    while line not in manager.recv(4096).decode().splitlines():
        pass


def test_a_node_is_ready_before_its_cluster_is_there_and_gives_signs_of_life(
    node: Node, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    node.joined()
    node.start()
    heard(manager, "READY=1")
    assert node.status()["tunnel"]["tunnel"] == "down"
    heard(manager, "WATCHDOG=1")
    heard(manager, "WATCHDOG=1")
    node.tunnel()
    heard(manager, "STATUS=tunnel up")


def test_a_node_that_cannot_join_yet_does_not_hold_up_the_boot(node: Node, manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()
    node.start(server=nobody, token="abcdefghij.klmnopqrstuvwxyz234567ab")
    heard(manager, "READY=1")
    heard(manager, "WATCHDOG=1")


#: as systemd passes a socket
_PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_socket_of_systemds_is_served_and_outlives_the_node(node: Node) -> None:
    node.joined()
    with socket.create_server(("127.0.0.1", 0)) as held:
        where = held.getsockname()

        def start() -> None:
            settings = {
                "data_dir": str(node.data),
                "nodename": "shed",
                "server": node.address,
                # What systemd holds already is no second address.
                "listen": [where],
                "ca_pins": [node.cluster.pin],
                "user": "nobody" if os.geteuid() == 0 else None,
                "ready_file": str(node.ready),
            }
            words = [sys.executable, "-c", _PASS, str(held.fileno()), sys.executable, "-c", _CODE, json.dumps(settings)]
            with node.log.open("ab") as log:
                node.process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[held.fileno()]
                )

        for _ in range(2):
            # Before the node is there somebody is already waiting.
            with socket.create_connection(where, LIMIT) as client:
                client.settimeout(LIMIT)
                client.sendall(b"SSH-2.0-test\r\n")
                start()
                node.tunnel()
                assert client.recv(8) == b"SSH-2.0-"
            assert node.status()["listen"] == [f"127.0.0.1:{where[1]}"]
            node.stop_process()
        assert "Traceback" not in node.log.read_text()


def test_passed_sockets_stay_when_the_addresses_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        listeners = Listeners([("127.0.0.1", port), ("127.0.0.1", 0)], [os.dup(held.fileno())])
        assert len(listeners.streams) == 2
        assert listeners.addresses()[0] == f"127.0.0.1:{port}"
        assert listeners.change([])
        assert listeners.addresses() == [f"127.0.0.1:{port}"]
        assert not listeners.change([("127.0.0.1", port)])
        for stream in listeners.streams:
            assert not stream.getblocking()
            assert not os.get_inheritable(stream.fileno())
            stream.close()


def test_a_socket_for_everything_serves_ipv4_too() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as held:
        port = held.getsockname()[1]
        listeners = Listeners([("0.0.0.0", port), ("127.0.0.1", port)], [os.dup(held.fileno())])
        assert len(listeners.streams) == 1
        listeners.streams[0].close()


#: what is passed as descriptor 3, and what comes of it
_TAKE = """
import os, socket, sys
from tinyport.core.errors import OperatorError
from tinyport.host.activation import take
made = {
    "listening": lambda: socket.create_server(("127.0.0.1", 0)),
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "idle": socket.socket,
    "file": lambda: open("/dev/null"),
}[sys.argv[1]]()
os.dup2(made.fileno(), 3)
os.environ.update(LISTEN_PID=sys.argv[2] or str(os.getpid()), LISTEN_FDS=sys.argv[3], LISTEN_FDNAMES="x")
try:
    print(take(), take(), "LISTEN_FDNAMES" in os.environ)
except OperatorError as error:
    print("refused:", error.message)
"""


@pytest.mark.parametrize(
    ("kind", "pid", "count", "said"),
    [
        ("listening", "", "1", "([3], {}) ([], {}) False"),
        ("listening", "1", "1", "([], {}) ([], {}) False"),
        ("listening", "", "x", "([], {}) ([], {}) False"),
        ("listening", "", "", "([], {}) ([], {}) False"),
        ("listening", "", "65", "refused: systemd passed 65 sockets, at most 64 are taken"),
        ("udp", "", "1", "refused: systemd passed something that is no listening TCP socket"),
        ("idle", "", "1", "refused: systemd passed something that is no listening TCP socket"),
        ("file", "", "1", "refused: systemd passed something that is no listening TCP socket"),
    ],
)
def test_what_is_passed_is_looked_at(kind: str, pid: str, count: str, said: str) -> None:
    assert activation.FIRST == 3
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TAKE, kind, pid, count],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    assert done.stdout.strip() == said


def test_a_missing_socket_is_refused() -> None:
    code = "import os; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='9')\n"
    code += "from tinyport.host.activation import take; take()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=LIMIT)
    assert "no listening TCP socket" in done.stderr

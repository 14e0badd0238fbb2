"""Where the only way out is an HTTP proxy: a device joins and serves through it, and people reach the cluster."""

from __future__ import annotations

import base64
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, alive, text, wait_for
from tests.scenarios.relay import move

#: a name that nobody but the proxy can look up
HOST = "port.example"


class ConnectProxy:
    """RFC 9110 section 9.3.6, for one host: CONNECT to it leads to ``port`` here, anything else is refused."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: credentials that it wants, as Basic has them
        self.wants: bytes | None = None
        #: what was asked for
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(1)
                if not piece:
                    return
                head += piece
            target = head.split()[1].decode()
            if self.wants is not None and b"\r\nProxy-Authorization: Basic " + self.wants + b"\r\n" not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            self.asked.append(target)
            if target.rpartition(":")[0] != HOST:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=move, args=(server, client), daemon=True)
                back.start()
                move(client, server)
                back.join(LIMIT)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxied(cluster: Cluster) -> Iterator[ConnectProxy]:
    proxy = ConnectProxy(int(cluster.ready["proxy"].rpartition(":")[2]))
    yield proxy
    proxy.close()


def test_a_device_and_a_person_behind_an_http_proxy(cluster: Cluster, proxied: ConnectProxy, tmp_path: Path) -> None:
    server = f"{HOST}:{cluster.ready['proxy'].rpartition(':')[2]}"
    environment = {**cluster.env("pia"), "HTTPS_PROXY": f"http://pia:s%40cret@127.0.0.1:{proxied.port}"}
    proxied.wants = base64.b64encode(b"pia:s@cret")
    token = cluster.tctl_json("tokens", "add", "--type", "node")["token"]
    config = tmp_path / "tinyport.toml"
    config.write_text("[node]\nlisten = []\n")
    words = ["start", "-c", str(config), "--roles=node", "--server", server, "--nodename", "behind"]
    words += ["--token", token, "--ca-pin", cluster.ready["ca_pin"], "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "node.log").open("ab") as log:
        node = subprocess.Popen([str(BIN / "tinyport"), *words], stdout=log, stderr=log, env=environment)
    try:
        wait_for("the node to be online", lambda: cluster.node_status("behind") == "online")
        assert proxied.asked
        cluster.add_user("pia", cluster.login_name)
        for command in (
            ("tsh", "login", "--proxy", server, "--user", "pia", "--ca-pin", cluster.ready["ca_pin"]),
            ("tsh", "--proxy", server, "ssh", f"{cluster.login_name}@behind", "echo", "there"),
        ):
            done = cluster.run(*command, env=environment, input="correct horse battery\n", home="pia")
            assert done.returncode == 0, text(done)
        assert done.stdout == b"there\n"
        assert set(proxied.asked) == {server}
        # Its worker has none of it: the address of a proxy may hold a password.
        workers = [pid for pid in _tree(node.pid) if _name(pid).startswith("tinyport-worke")]
        assert workers
        assert b"HTTPS_PROXY" not in Path(f"/proc/{workers[0]}/environ").read_bytes()
    finally:
        node.terminate()
        node.wait(LIMIT)
    assert not alive(node.pid)


def test_a_proxy_that_refuses_is_named(cluster: Cluster, proxied: ConnectProxy, tmp_path: Path) -> None:
    environment = {**cluster.env("nobody"), "https_proxy": f"127.0.0.1:{proxied.port}", "HOME": str(tmp_path)}
    words = ("tsh", "login", "--proxy", "elsewhere.example:443", "--user", "x", "--ca-pin", cluster.ready["ca_pin"])
    done = cluster.run(*words, env=environment, input="x\n")
    assert done.returncode != 0
    assert b"the HTTP proxy refused elsewhere.example:443" in done.stderr
    proxied.wants = b"x"
    done = cluster.run(*words, env=environment, input="x\n")
    assert b"the HTTP proxy wants a name and password" in done.stderr
    done = cluster.run(*words, env={**environment, "https_proxy": f"127.0.0.1:{proxied.port}", "NO_PROXY": "*"})
    assert b"the HTTP proxy" not in done.stderr


def _tree(pid: int) -> list[int]:
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += _tree(int(child))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except FileNotFoundError:
        return ""

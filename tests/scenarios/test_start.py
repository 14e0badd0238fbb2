"""``tinyport start`` as services run it: server and node of one machine apart, each told only its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import processes
from tests.ports import free_port
from tests.scenarios.cluster import BIN, LIMIT, alive, wait_for

STATIC = "fleet.0123456789abcdefghij"


class Machine:
    """A machine with one configuration file and several services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proxy = f"127.0.0.1:{free_port()}"
        self.config = folder / "tinyport.toml"
        self.config.write_text(
            f'[tinyport]\nnodename = "shed"\ndata_dir = "{folder}/data"\n'
            f'[auth]\ncluster_name = "farm.example"\nlisten = "127.0.0.1:{free_port()}"\n'
            f'static_tokens = [{{ type = "node", value = "{STATIC}" }}]\n'
            f'[proxy]\nlisten = "{self.proxy}"\npublic_addr = ["{self.proxy}"]\n'
            '[node]\nlisten = ["127.0.0.1:0"]\n'
        )
        self.services: list[subprocess.Popen[bytes]] = []

    def env(self) -> dict[str, str]:
        # A folder with a module that would be taken instead of the real one, if anybody looked there.
        (self.folder / "cwd").mkdir(exist_ok=True)
        (self.folder / "cwd" / "tinyport.py").write_text("raise SystemExit('the wrong tinyport')")
        return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder), "NOTIFY_SOCKET": self.notify}

    @property
    def notify(self) -> str:
        return str(self.folder / "notify")

    def start(self, roles: str) -> subprocess.Popen[bytes]:
        words = [str(BIN / "tinyport"), "start", "-c", str(self.config), f"--roles={roles}"]
        with (self.folder / f"{roles}.log").open("ab") as log:
            service = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder / "cwd", env=self.env())
        self.services.append(service)
        return service

    def tctl(self, *words: str) -> Any:
        command = [str(BIN / "tctl"), "-c", str(self.config), *words, "--format", "json"]
        done = subprocess.run(command, capture_output=True, env=self.env(), timeout=LIMIT, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def nodes(self) -> dict[str, str]:
        listed = self.tctl("nodes", "ls") or {"nodes": []}
        return {node["name"]: node["status"] for node in listed["nodes"]}

    def stop(self) -> None:
        for service in self.services:
            service.terminate()
        for service in self.services:
            try:
                assert service.wait(LIMIT) == 0
            finally:
                service.kill()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.env()
    try:
        yield made
    finally:
        made.stop()


def test_server_and_node_as_services_of_their_own(machine: Machine) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(machine.notify)
        systemd.settimeout(LIMIT)
        server = machine.start("auth,proxy")
        assert systemd.recv(4096) == b"READY=1"
        # It has joined by a token that it got at auth's socket, and kept nothing of it.
        (proxy,) = machine.tctl("status")["proxies"]
        assert proxy["name"] == "proxy-shed"
        node = machine.start("node")
        wait_for("the node to be online", lambda: machine.nodes() == {"shed": "online"})
        # One role is the process that was started: the monitor, not somebody who watches it.
        assert Path(f"/proc/{node.pid}/comm").read_text().strip() == "tinyport-monitor"[:15]
        server.send_signal(signal.SIGHUP)
        node.send_signal(signal.SIGHUP)
    # Who reads the configuration again is a child for a moment, too.
    names: dict[str, int] = {}

    def roles() -> bool:
        names.clear()
        names.update((processes.name(pid), pid) for pid in processes.tree(server.pid) if pid != server.pid)
        return sorted(names) == ["tinyport-auth", "tinyport-proxy"]

    wait_for("auth and proxy alone", roles)
    for pid in (*names.values(), node.pid):
        assert STATIC.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(names["tinyport-auth"], signal.SIGKILL)
    wait_for("auth to be back", lambda: not alive(names["tinyport-auth"]) and machine.tctl("status") is not None)
    wait_for("the node to be online", lambda: machine.nodes() == {"shed": "online"})
    (proxy,) = machine.tctl("status")["proxies"]
    node.terminate()
    assert node.wait(LIMIT) == 0
    wait_for("the node to be offline", lambda: machine.nodes() == {"shed": "offline"})


def test_a_reload_of_the_server_ends_nothing(machine: Machine) -> None:
    server = machine.start("auth,proxy")
    wait_for("auth", lambda: machine.tctl("status"))
    machine.start("node")
    wait_for("the node to be online", lambda: machine.nodes() == {"shed": "online"})

    def log() -> str:
        return (machine.folder / "auth,proxy.log").read_text()

    pids = sorted(processes.tree(server.pid))
    good = machine.config.read_text()

    def reload(text: str, said: str) -> None:
        machine.config.write_text(text)
        server.send_signal(signal.SIGHUP)
        wait_for(said, lambda: said in log())

    reload(good.replace("[node]", 'proxy_protocol_frm = ["127.0.0.1/32"]\n[node]'), "proxy_protocol_frm")
    reload(good.replace("[node]", 'proxy_protocol_from = ["127.0.0.1/32"]\n[node]'), "was read again")
    host, _, port = machine.proxy.rpartition(":")
    with socket.create_connection((host, int(port))) as stream:
        stream.settimeout(LIMIT)
        # It comes from a balancer now. From anybody else this is not taken.
        stream.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 4242 443\r\nSSH-2.0-x\r\n")
        assert stream.recv(100).startswith(b"SSH-2.0-")
    assert sorted(processes.tree(server.pid)) == pids
    assert log().count("tunnel up") == 1
    assert machine.nodes() == {"shed": "online"}


def test_figures_of_auth_and_proxy(machine: Machine) -> None:
    first = next(port for port in iter(free_port, 0) if _is_free(port + 1))
    text = machine.config.read_text()
    machine.config.write_text(text.replace("[auth]", f'diag_addr = "127.0.0.1:{first}"\n[auth]', 1))
    machine.start("auth,proxy")
    wait_for(
        "the proxy", lambda: any(proxy["online"] for proxy in (machine.tctl("status") or {"proxies": []})["proxies"])
    )
    pages = {}
    for role, port in (("auth", first), ("proxy", first + 1)):
        for path in ("metrics", "healthz", "readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=LIMIT) as answer:
                pages[role, path] = answer.read().decode()
    assert pages["auth", "readyz"] == pages["proxy", "readyz"] == "ready\n"
    assert 'tinyport_auth_proxies{state="online"} 1.0' in pages["auth", "metrics"]
    assert 'tinyport_auth_audit_events_total{event="proxy.join"} 1.0' in pages["auth", "metrics"]
    assert 'route="/v1/status"' in pages["auth", "metrics"]
    assert "tinyport_proxy_auth_up 1.0" in pages["proxy", "metrics"]
    # Nothing that a stranger asks for becomes a figure of its own.
    assert "127.0.0.1" not in pages["auth", "metrics"] + pages["proxy", "metrics"]
    found = machine.tctl("top", "--count", "1")
    assert found["proxies"] == [{"name": "proxy-shed", "online": True, "tunnels": 0}]


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_a_static_token_lets_a_device_in(machine: Machine, tmp_path: Path) -> None:
    machine.start("auth,proxy")
    found = wait_for("auth", lambda: machine.tctl("status"))
    wait_for("the proxy", lambda: any(proxy["online"] for proxy in (machine.tctl("status") or found)["proxies"]))
    token = tmp_path / "token"
    token.write_text(f"{STATIC}\n")
    device = tmp_path / "device.toml"
    device.write_text("[node]\nlisten = []\n")
    words = ["start", "-c", device, "--roles=node", "--server", machine.proxy, "--data-dir", tmp_path / "device"]
    words += ["--token", token, "--ca-pin", found["ca_pins"][0], "--nodename", "device"]
    command = [str(BIN / "tinyport"), *(str(word) for word in words)]
    with (tmp_path / "device.log").open("ab") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path / "cwd", env=machine.env())
    machine.services.append(service)
    wait_for("the device to be online", lambda: machine.nodes().get("device") == "online")


def test_a_role_that_cannot_start_ends_everything_with_its_own_words(machine: Machine) -> None:
    host, _, port = machine.proxy.rpartition(":")
    with socket.create_server((host, int(port))):
        server = machine.start("auth,proxy")
        assert server.wait(LIMIT) == 1
    machine.services.clear()
    said = (machine.folder / "auth,proxy.log").read_text()
    assert f"cannot listen on {machine.proxy}" in said
    assert "tinyport: error: proxy could not start" in said
    assert "Traceback" not in said

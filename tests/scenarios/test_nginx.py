"""nginx in front of the proxy: as a relay of TCP, and ending TLS. A device and a person come through both."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing, need_program
from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device
from tinyport.core.certificate import public_line
from tinyport.host.tls import unverified_context
from tinyport.link import websocket as ws
from tinyport.link.login_keys import LoginKeys

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# As docs/load-balancers.md has it, and what makes it run in a folder of the test's. Where it passes TCP on, it comes to
# the proxy from one address, where it speaks HTTP from another, and clients come from a third.
TCP, HTTP, CLIENT = "127.0.0.2", "127.0.0.3", "127.0.0.1"
PROXY = f"""proxy_protocol_from = ["{TCP}/32"]
forwarded = {{ from = ["{HTTP}/32"] }}"""
WAYS = {
    "relay": "listen {address}; proxy_pass {proxy};",
    "tcp ends": "listen {address} ssl; proxy_pass {proxy};",
    "tcp again": "listen {address} ssl; proxy_pass {proxy}; proxy_ssl on;",
    "ends": "location = /v1/connect {{ proxy_pass http://{proxy}; }}",
    "again": "location = /v1/connect {{ proxy_pass https://{proxy}; }}",
}
CONFIGURATION = """
load_module {stream_module};
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log info;
events {{ worker_connections 256; }}
stream {{
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    proxy_bind {tcp}; proxy_protocol on; proxy_timeout 1h;
    {streams}
}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    proxy_bind {http};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_buffering off;
    proxy_read_timeout 5m;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    {servers}
}}
"""


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


class Nginx:
    """``ways``: of each way above, where it begins."""

    def __init__(self, folder: Path, proxy: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.ways = {way: free_port() for way in WAYS}
        made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", folder / "key.pem", "-out", folder / "cert.pem")
        subprocess.run([*made, "-days", "2", "-subj", "/CN=port.example", *files], check=True, capture_output=True)
        lines = {way: WAYS[way].format(address=address, proxy=proxy) for way, address in self.ways.items()}
        pages = f"location / {{ proxy_pass https://{proxy}; }}"
        streams = [f"server {{ {line} }}" for line in lines.values() if line.startswith("listen")]
        servers = [
            f"server {{ listen {self.ways[way]} ssl; {line} {pages} }}"
            for way, line in lines.items()
            if not line.startswith("listen")
        ]
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                tcp=TCP,
                http=HTTP,
                streams="\n".join(streams),
                servers="\n".join(servers),
                stream_module=STREAM_MODULE,
            )
        )
        self._process = subprocess.Popen(
            [need_program("nginx"), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            stderr=subprocess.DEVNULL,
        )
        wait_for("nginx", self._serves)

    def _serves(self) -> bool:
        try:
            for address in self.ways.values():
                host, _, port = address.partition(":")
                socket.create_connection((host, int(port))).close()
        except OSError:
            assert self._process.poll() is None, (self.folder / "error.log").read_text()
            return False
        return True

    def asked(self) -> list[str]:
        """The paths that were asked for where it ends TLS, of requests that have ended."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line.split('"')[1].split()[1] for line in lines]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(LIMIT)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), proxy=PROXY)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def nginx(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    # Its worker is another user than root.
    for above in (folder, *list(folder.parents)[:2]):
        os.chmod(above, 0o711)
    if not STREAM_MODULE.exists():
        missing("libnginx-mod-stream")
    made = Nginx(folder / "nginx", cluster.ready["proxy"])
    yield made
    made.stop()


@pytest.mark.parametrize("way", WAYS)
def test_a_device_and_a_person_come_through(cluster: Cluster, nginx: Nginx, tmp_path: Path, way: str) -> None:
    server = nginx.ways[way]
    name = f"behind-{way.replace(' ', '-')}"
    device = Device(cluster, tmp_path, server, name=name)
    device.start()
    try:
        wait_for(f"the device, whose log is {device.log()}", lambda: f"through {server}" in device.status())
        wait_for("the device in the list", lambda: cluster.node_status(name) == "online")
        user = cluster.add_user(f"nina-{name}", cluster.login_name)
        words = ("--proxy", server, "--user", user, "--ca-pin", cluster.ready["ca_pin"])
        done = cluster.tsh("login", *words, home=user, input="correct horse battery\n")
        assert done.returncode == 0, text(done)
        where = f"{cluster.login_name}@{name}"
        done = cluster.tsh("--proxy", server, "ssh", where, "cat", home=user, input=b"x" * 300_000)
        assert done.stdout == b"x" * 300_000, text(done)
        # What nobody reads is not lost, and what is large arrives whole.
        done = cluster.tsh("--proxy", server, "ssh", where, "head -c 3000000 /dev/zero; exit 3", home=user)
        assert (len(done.stdout), done.returncode) == (3_000_000, 3)
        # Whose connection it is, and not nginx's.
        done = cluster.tsh("--proxy", server, "ssh", where, "echo ${SSH_CLIENT%% *}", home=user)
        assert done.stdout.decode().split() == [CLIENT], text(done)
        assert f"peer={TCP}" not in cluster.log()
        assert f"peer={HTTP}" not in cluster.log()
        if way in ("ends", "again"):
            assert "/v1/connect" in nginx.asked()
            assert set(nginx.asked()) <= {"/v1/connect", "/v1/hello", "/healthz"}
    finally:
        device.stop()
        cluster.tctl("nodes", "rm", name)


@pytest.mark.parametrize("way", ["tcp again", "ends", "again"])
def test_a_page_comes_through(cluster: Cluster, nginx: Nginx, way: str) -> None:
    done = cluster.run("curl", "-sk", f"https://{nginx.ways[way]}/healthz")
    assert done.stdout == b'{"status": "ok"}', text(done)


def test_auth_hears_from_the_proxy_where_somebody_is(cluster: Cluster, nginx: Nginx) -> None:
    host, _, port = nginx.ways["relay"].partition(":")
    context = unverified_context(alpn=["tinyport-auth"])
    asking = http.client.HTTPSConnection(
        host, int(port), timeout=LIMIT, source_address=("127.0.0.8", 0), context=context
    )
    keys = LoginKeys("x")
    words = {"user": "nobody", "password": "wrong", "tls_csr": keys.tls_csr}
    asking.request("POST", "/v1/login", json.dumps({"ssh_public_key": public_line(keys.ssh_public_blob), **words}))
    assert asking.getresponse().status == 401
    asking.close()
    failed = cluster.tctl_json("audit", "--user", "nobody")["events"]
    assert [event["source"] for event in failed] == ["127.0.0.8"]


def test_who_logs_in_by_a_page_is_known_by_their_address(cluster: Cluster, nginx: Nginx) -> None:
    user, address, there = cluster.add_user("olga", cluster.login_name), nginx.ways["again"], "127.0.0.9"
    words = [
        "curl",
        "-sk",
        "--interface",
        there,
        "-H",
        f"Origin: https://{address}",
        "-H",
        "X-Forwarded-For: 192.0.2.66",
    ]
    words += ["-H", "Content-Type: application/json", "--data-binary", "@-", f"https://{address}/web/api/login"]
    done = cluster.run(*words, input=json.dumps({"user": user, "password": "correct horse battery"}))
    assert json.loads(done.stdout)["user"] == user, text(done)
    events = cluster.tctl_json("audit", "--user", user, "--type", "user.login")["events"]
    assert there in {event["source"] for event in events if event.get("web")}, events


def test_a_connection_in_a_connection_in_a_connection_is_one_too_many(cluster: Cluster) -> None:
    host, _, port = cluster.ready["proxy"].partition(":")
    with socket.create_connection((host, int(port)), LIMIT) as outer:
        request = ws.client_handshake("/v1/connect", "proxy", ws.make_key(os.urandom(16)))
        outer.sendall(request)
        assert outer.recv(4096).startswith(b"HTTP/1.1 101")
        outer.sendall(ws.encode(ws.OP_BINARY, request, os.urandom(4)))
        said = b""
        while piece := outer.recv(4096):
            said += piece
    assert b"101" not in said


@pytest.mark.parametrize("path", [b"/", b"/v1/connect"])
def test_http_in_clear_is_nothing_else(cluster: Cluster, path: bytes) -> None:
    host, _, port = cluster.ready["proxy"].partition(":")
    with socket.create_connection((host, int(port)), LIMIT) as outer:
        outer.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert outer.recv(4096).startswith(b"HTTP/1.1 400")

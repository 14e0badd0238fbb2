"""nginx in front of the proxy: as a relay of TCP, and ending TLS. A device and a person come through both."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for
from tests.scenarios.device import Device
from tests.scenarios.nginx import CLIENT, HTTP, PROXY, TCP, WAYS, Nginx, start_nginx
from tinyport.core.certificate import public_line
from tinyport.host.tls import unverified_context
from tinyport.link import websocket as ws
from tinyport.link.login_keys import LoginKeys


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), proxy=PROXY, level="info")
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def nginx(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    made = start_nginx(tmp_path_factory.mktemp("nginx"), cluster.ready["proxy"])
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
        log = cluster.log(10**7)
        assert f"peer={CLIENT}:" in log
        assert f"peer={TCP}:" not in log
        assert f"peer={HTTP}:" not in log
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

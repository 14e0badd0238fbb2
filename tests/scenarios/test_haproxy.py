"""HAProxy before the proxy, with version 2 of its protocol and its health checks; and with the Forwarded header."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for
from tinyport.core.certificate import public_line
from tinyport.host.tls import unverified_context
from tinyport.link.login_keys import LoginKeys

TCP, HTTP = "127.0.0.2", "127.0.0.3"
PROXY = f"""proxy_protocol_from = ["{TCP}/32"]
forwarded = {{ from = ["{HTTP}/32"], header = "Forwarded" }}"""

# "check" sends a header of its own, LOCAL, and nothing after it.
CONFIGURATION = """
global
    stats socket {folder}/stats
defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen relay
    mode tcp
    bind {relay}
    server proxy {proxy} source {tcp} send-proxy-v2 check inter 100ms
listen ends
    mode http
    bind {ends} ssl crt {folder}/both.pem
    http-request set-header Forwarded for=%[src]
    server proxy {proxy} source {http} ssl verify none
"""


class HAProxy:
    """``relay`` passes TCP on, ``ends`` speaks HTTP, with TLS on both sides."""

    def __init__(self, folder: Path, proxy: str) -> None:
        self.relay, self.ends = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.stats = folder / "stats"
        made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        both = folder / "both.pem"
        files = ("-keyout", both, "-out", folder / "crt.pem")
        subprocess.run([*made, "-days", "2", "-subj", "/CN=x", *files], check=True, capture_output=True)
        both.write_bytes(both.read_bytes() + (folder / "crt.pem").read_bytes())
        path = folder / "haproxy.cfg"
        path.write_text(
            CONFIGURATION.format(folder=folder, relay=self.relay, ends=self.ends, proxy=proxy, tcp=TCP, http=HTTP)
        )
        with (folder / "haproxy.log").open("wb") as log:
            self._process = subprocess.Popen([need_program("haproxy"), "-db", "-f", path], stdout=log, stderr=log)
        wait_for(f"haproxy: {(folder / 'haproxy.log').read_text()}", self.stats.exists)

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
def haproxy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    made = HAProxy(tmp_path_factory.mktemp("haproxy"), cluster.ready["proxy"])
    yield made
    made.stop()


def test_auth_hears_where_somebody_is(cluster: Cluster, haproxy: HAProxy) -> None:
    host, _, port = haproxy.relay.partition(":")
    keys = LoginKeys("x")
    words = {"password": "wrong", "tls_csr": keys.tls_csr, "ssh_public_key": public_line(keys.ssh_public_blob)}
    for number, source in enumerate(("127.0.0.8", "127.0.0.9")):
        context = unverified_context(alpn=["tinyport-auth"])
        asking = http.client.HTTPSConnection(
            host, int(port), timeout=LIMIT, source_address=(source, 0), context=context
        )
        asking.request("POST", "/v1/login", json.dumps({"user": f"nobody-{number}", **words}))
        assert asking.getresponse().status == 401
        asking.close()
        failed = cluster.tctl_json("audit", "--user", f"nobody-{number}")["events"]
        assert [event["source"] for event in failed] == [source]


def test_health_checks_are_served(cluster: Cluster, haproxy: HAProxy) -> None:
    """They say that they are the balancer's own, and close again: nothing to complain about."""

    def is_up() -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(haproxy.stats))
            asking.sendall(b"show stat\n")
            lines = asking.makefile().read().splitlines()
        names = lines[0].lstrip("# ").split(",")
        rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:]]
        return any(
            row["pxname"] == "relay" and row["svname"] == "proxy" and row["check_status"] == "L4OK"
            for row in rows
            if "check_status" in row
        )

    wait_for("the check", is_up)
    assert "balancer refused" not in cluster.log()


def test_a_page_by_the_forwarded_header(cluster: Cluster, haproxy: HAProxy) -> None:
    user = cluster.add_user("hanna", cluster.login_name)
    words = ["curl", "-sk", "--interface", "127.0.0.9", "-H", f"Origin: https://{haproxy.ends}"]
    words += ["-H", "X-Forwarded-For: 192.0.2.66", "-H", "Content-Type: application/json", "--data-binary", "@-"]
    done = cluster.run(
        *words,
        f"https://{haproxy.ends}/web/api/login",
        input=json.dumps({"user": user, "password": "correct horse battery"}),
    )
    assert json.loads(done.stdout)["user"] == user, text(done)
    events = cluster.tctl_json("audit", "--user", user, "--type", "user.login")["events"]
    assert {event["source"] for event in events if event.get("web")} == {"127.0.0.9"}

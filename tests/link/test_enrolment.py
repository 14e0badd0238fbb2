"""Joining, renewing and returning against a small auth that keeps to docs/protocol/api.md."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import threading
import uuid as uuids
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from tests.node.tiny_cluster import DAY, LIMIT, Cluster
from tinyport.core.certificate import Certificate, parse_public_line, public_line
from tinyport.core.errors import AccessDenied, OperatorError, PeerError, Unavailable
from tinyport.core.signatures import Ed25519Key, verify, verify_raw
from tinyport.host import identity_file
from tinyport.host.identity_file import Kept
from tinyport.host.logging_line import Log
from tinyport.host.tls import server_context
from tinyport.link import enrolment, known_auth
from tinyport.node import enrol

TOKEN = "abcdefghij.klmnopqrstuvwxyz234567ab"


class TinyAuth:
    """Answers hello, join, renew and return. ``refusals``: path → (status, error object). ``requests``: what came."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, tuple[int, dict[str, object]]] = {}
        self.successions: list[dict[str, str]] = []
        self.trust: object = None
        #: how many answers to a join are lost on the way
        self.lose = 0
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.joined: dict[str, str] = {}
        self.now = 1_790_000_000
        auth = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = LIMIT

            def do_GET(self) -> None:
                auth.requests.append((self.path, {}))
                if self.path in auth.refusals:
                    status, error = auth.refusals[self.path]
                    self._answer(status, {"error": error})
                    return
                self._answer(200, auth.hello() if self.path == "/v1/hello" else {"policy": auth.cluster.policy()})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                auth.requests.append((self.path, body))
                if self.path in auth.refusals:
                    status, error = auth.refusals[self.path]
                    self._answer(status, {"error": error})
                    return
                answer = auth.answer(self.path, body)
                if auth.lose:
                    auth.lose -= 1
                    self.close_connection = True
                    return
                self._answer(200, auth.change(answer))

            def _answer(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        class Server(HTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                del request, client_address

            def get_request(self) -> tuple[socket.socket, Any]:
                plain, address = super().get_request()
                plain.settimeout(LIMIT)
                return context.wrap_socket(plain, server_side=True), address

        certificate, key = cluster.leaf("auth", str(uuids.uuid4()))
        context = server_context(
            [cluster.tls_ca], alpn=["tinyport-auth"], cert_pem=certificate, key_pem=key, client="optional"
        )
        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = ("127.0.0.1", int(self._server.server_address[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def hello(self) -> dict[str, object]:
        return {
            "version": "0.1.0",
            "api": [1],
            "cluster": "farm",
            "time": self.now,
            "tls_cas": [self.cluster.tls_ca],
            "successions": self.successions,
            **({} if self.trust is None else {"trust": self.trust}),
            "challenge": "chall-enge",
            "proxies": [],
        }

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = x509.load_pem_x509_csr(body["tls_csr"].encode())
        assert request.is_signature_valid
        blob = parse_public_line(body["ssh_public_key"])
        if path in ("/v1/join", "/v1/boot", "/v1/return"):
            prefix = b"tinyport-return-v1\0" if path == "/v1/return" else b"tinyport-join-v1\0"
            digest = hashlib.sha256(request.public_bytes(Encoding.DER)).digest()
            verify_raw(blob, prefix + b"chall-enge\0" + digest, base64.b64decode(body["proof"]))
        kind = body.get("kind", "node")
        uuid = self.joined.setdefault(body["ssh_public_key"], body.get("uuid") or str(uuids.uuid4()))
        key = request.public_key()
        assert isinstance(key, Ed25519PublicKey)
        generation = 1 + sum(path in ("/v1/renew", "/v1/return") for path, _ in self.requests)
        return {
            "cluster": "farm",
            "uuid": uuid,
            "name": "shed",
            "kind": kind,
            "generation": generation,
            "ssh_certificate": self.cluster.host_certificate(blob, uuid, "shed", role=kind),
            "tls_certificate": self.cluster.certify(kind, uuid, key),
            "tls_cas": [self.cluster.tls_ca],
            "policy_key": public_line(self.cluster.policy_key.public_blob),
            "policy": self.cluster.policy(serial=generation),
            "node": self.cluster.node_document(uuid, "shed") if kind == "node" else None,
            "proxies": ["127.0.0.1:3080"],
            "time": self.now,
            "valid_after": self.now - 60,
            "valid_before": self.now + 7 * DAY,
        }

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def auth(cluster: Cluster) -> Iterator[TinyAuth]:
    made = TinyAuth(cluster)
    yield made
    made.stop()


def join(auth: TinyAuth, path: Path, **changes: Any) -> dict[str, object]:
    values: dict[str, Any] = {
        "token": TOKEN,
        "ca_pins": [auth.cluster.pin],
        "insecure": False,
        "kind": "node",
        "nodename": "greenhouse",
        "addresses": [],
    }
    return enrolment.join(auth.address, identity_path=path, **{**values, **changes})


def host_key(identity: dict[str, object]) -> bytes:
    return Ed25519Key.from_openssh(str(identity["ssh_key"]).encode()).public_blob


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "identity.json"


def test_a_node_joins_and_has_its_identity_on_the_disk(auth: TinyAuth, path: Path) -> None:
    identity = join(auth, path)
    assert identity_file.load(path) == identity
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert identity["name"] == "shed"
    assert identity["ca_pins"] == [auth.cluster.pin]
    assert identity["proxies"] == ["127.0.0.1:3080"]
    body = auth.requests[-1][1]
    assert (body["token"], body["kind"], body["nodename"]) == (TOKEN, "node", "greenhouse")
    for secret in (identity["ssh_key"], identity["tls_key"]):
        assert str(secret).splitlines()[1] not in json.dumps(auth.requests)
    certificate = Certificate.decode(parse_public_line(str(identity["ssh_certificate"])))
    assert certificate.public_key == host_key(identity)
    for kind in ("policy", "node"):
        assert json.loads((path.parent / f"{kind}.json").read_text())["signature"]
    assert not path.with_name("identity.pending.json").exists()


def test_a_proxy_joins_with_its_addresses(auth: TinyAuth, path: Path) -> None:
    identity = join(auth, path, kind="proxy", addresses=["port.example:443"])
    assert identity["kind"] == "proxy"
    assert auth.requests[-1][1]["addresses"] == ["port.example:443"]
    assert not (path.parent / "node.json").exists()


def test_the_token_is_not_sent_to_a_server_with_another_pin(auth: TinyAuth, path: Path) -> None:
    with pytest.raises(OperatorError, match="pin") as caught:
        join(auth, path, ca_pins=["sha256:" + "0" * 64])
    assert caught.value.code == "ca_pin"
    assert auth.paths() == ["/v1/hello"]
    assert not path.exists()


def test_one_of_several_pins_is_enough(auth: TinyAuth, path: Path) -> None:
    join(auth, path, ca_pins=["sha256:" + "0" * 64, auth.cluster.pin.upper().replace("SHA256", "sha256")])


def test_without_a_pin_nobody_is_even_asked(auth: TinyAuth, path: Path) -> None:
    with pytest.raises(OperatorError, match="no CA pin"):
        join(auth, path, ca_pins=[])
    assert auth.requests == []


def test_without_a_pin_when_told_the_pin_is_remembered(auth: TinyAuth, path: Path) -> None:
    assert join(auth, path, ca_pins=[], insecure=True)["ca_pins"] == [auth.cluster.pin]


def test_something_that_is_no_token_is_not_sent(auth: TinyAuth, path: Path) -> None:
    with pytest.raises(PeerError, match="not a token"):
        join(auth, path, token="hello")
    assert auth.requests == []


def test_the_same_device_asks_again_after_a_lost_answer(auth: TinyAuth, path: Path) -> None:
    auth.lose = 1
    with pytest.raises(Unavailable):
        join(auth, path)
    pending = path.with_name("identity.pending.json")
    assert pending.stat().st_mode & 0o777 == 0o600
    identity = join(auth, path)
    first, second = (body["ssh_public_key"] for request, body in auth.requests if request == "/v1/join")
    assert first == second
    assert list(auth.joined.values()) == [identity["uuid"]]
    assert not pending.exists()


def test_a_damaged_pending_file_is_put_aside(auth: TinyAuth, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.with_name("identity.pending.json").write_text('{"ssh_key": "x"')
    join(auth, path)
    assert path.with_name("identity.pending.damaged").exists()


@pytest.mark.parametrize("code", ["bad_token", "denied", "slow_down"])
def test_refusals_are_passed_on(auth: TinyAuth, path: Path, code: str) -> None:
    status = {"bad_token": 401, "denied": 403, "slow_down": 429}[code]
    auth.refusals["/v1/join"] = status, {"code": code, "message": "the token was used already"}
    with pytest.raises(Unavailable if code == "slow_down" else AccessDenied, match="used already") as caught:
        join(auth, path)
    assert caught.value.code == code
    assert TOKEN.partition(".")[2] not in str(caught.value)
    assert not path.exists()


def test_nobody_at_home(cluster: Cluster, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()[:2]
    with pytest.raises(Unavailable, match="cannot reach"):
        enrolment.join(address, TOKEN, [cluster.pin], False, "node", "x", (), path)


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": str(uuids.uuid4())},
        {"uuid": "../../etc"},
        {"kind": "proxy"},
        {"cluster": "other"},
        {"policy_key": "ssh-ed25519 AAAA"},
        {"policy": {"document": "{}", "signature": ""}},
        {"tls_certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"generation": "1"},
        {"ssh_certificate": None},
        {"tls_cas": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_answer_for_somebody_else_is_refused(auth: TinyAuth, path: Path, change: dict[str, Any]) -> None:
    auth.change = lambda answer: {**answer, **change}
    with pytest.raises(PeerError):
        join(auth, path)
    assert not path.exists()


def test_a_policy_signed_by_another_key_is_refused(auth: TinyAuth, path: Path) -> None:
    other = Cluster()
    auth.change = lambda answer: {**answer, "policy": other.policy()}
    with pytest.raises(PeerError, match="not signed"):
        join(auth, path)


def test_renewal_changes_the_tls_key_and_keeps_the_host_key(auth: TinyAuth, path: Path) -> None:
    before = join(auth, path)
    after = enrolment.renew_or_return(path)
    assert identity_file.load(path) == after
    assert after["generation"] == 2
    assert after["uuid"] == before["uuid"]
    assert host_key(after) == host_key(before)
    assert after["tls_key"] != before["tls_key"]
    assert auth.requests[-1][1]["generation"] == 1
    assert auth.paths().count("/v1/return") == 0
    held = json.loads(json.loads((path.parent / "policy.json").read_text())["document"])
    assert held["serial"] == 2


def test_an_expired_device_returns_with_its_registered_key(auth: TinyAuth, path: Path) -> None:
    before = join(auth, path)
    auth.refusals["/v1/renew"] = 401, {"code": "expired", "message": "expired"}
    after = enrolment.renew_or_return(path)
    assert after["uuid"] == before["uuid"]
    assert auth.paths()[-3:] == ["/v1/renew", "/v1/hello", "/v1/return"]


def test_a_locked_device_does_not_try_to_return(auth: TinyAuth, path: Path) -> None:
    before = join(auth, path)
    auth.refusals["/v1/renew"] = 403, {"code": "locked", "message": "locked: stolen"}
    with pytest.raises(AccessDenied, match="stolen"):
        enrolment.renew_or_return(path)
    assert identity_file.load(path) == before


@pytest.mark.parametrize("way", ["/v1/renew", "/v1/return"])
def test_a_copy_that_was_split_joins_with_a_key_of_its_own(auth: TinyAuth, path: Path, way: str) -> None:
    before = join(auth, path)
    auth.refusals["/v1/renew"] = 401, {"code": "expired", "message": "expired"}
    auth.refusals[way] = 403, {"code": "split", "message": "another one", "token": TOKEN}
    auth.change = lambda answer: {**answer, "node": auth.cluster.node_document(answer["uuid"], "shed", serial=1)}
    (path.parent / "node.json").write_text(json.dumps(auth.cluster.node_document(str(before["uuid"]), "x", serial=9)))
    after = enrolment.renew_or_return(path, instance="ab" * 16)
    assert identity_file.load(path) == after
    assert after["uuid"] != before["uuid"]
    assert host_key(after) != host_key(before)
    assert [body["instance"] for where, body in auth.requests if where == way] == ["ab" * 16]
    # What it knew of the node that it was is not about the one that it is.
    held = json.loads(json.loads((path.parent / "node.json").read_text())["document"])
    assert held["uuid"] == after["uuid"]


@pytest.mark.parametrize("token", [None, 7, "no token"])
def test_a_split_without_a_token_changes_nothing(auth: TinyAuth, path: Path, token: object) -> None:
    before = join(auth, path)
    auth.refusals["/v1/renew"] = 403, {"code": "split", "message": "another one", "token": token}
    with pytest.raises((AccessDenied, PeerError)):
        enrolment.renew_or_return(path)
    assert identity_file.load(path) == before


def test_another_policy_key_is_not_taken_at_renewal(auth: TinyAuth, path: Path) -> None:
    before = join(auth, path)
    other = Cluster()
    line = public_line(other.policy_key.public_blob)
    auth.change = lambda answer: {**answer, "policy_key": line, "policy": other.policy(), "node": None}
    with pytest.raises(PeerError, match="another"):
        enrolment.renew(path)
    assert identity_file.load(path) == before


def test_documents_never_go_back(auth: TinyAuth, path: Path) -> None:
    join(auth, path)
    newer = auth.cluster.policy(serial=40)
    (path.parent / "policy.json").write_text(json.dumps(newer))
    enrolment.renew(path)
    assert json.loads((path.parent / "policy.json").read_text()) == newer


def test_cas_of_the_signed_policy_are_trusted_too(auth: TinyAuth, path: Path) -> None:
    identity = join(auth, path)
    other = Cluster()
    policy = auth.cluster.policy(serial=9, tls_cas=[auth.cluster.tls_ca, other.tls_ca])
    (path.parent / "policy.json").write_text(json.dumps(policy))
    assert known_auth.trusted_cas(identity, path.parent) == [auth.cluster.tls_ca, other.tls_ca]
    (path.parent / "policy.json").write_text(json.dumps(other.policy(tls_cas=[other.tls_ca])))
    assert known_auth.trusted_cas(identity, path.parent) == [auth.cluster.tls_ca]


def test_an_impostor_with_the_right_ca_on_show_gets_no_token(cluster: Cluster, path: Path) -> None:
    """It shows the real CA in its hello, but cannot speak under it."""
    impostor = TinyAuth(Cluster())
    impostor.cluster.tls_ca = cluster.tls_ca
    try:
        with pytest.raises((PeerError, Unavailable, ssl.SSLError)):
            enrolment.join(impostor.address, TOKEN, [cluster.pin], False, "node", "x", (), path)
        assert "/v1/join" not in impostor.paths()
    finally:
        impostor.stop()


# ------------------------------------------------------------------ keys in memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Kept]:
    descriptor = os.memfd_create("test")
    (tmp_path / "node").mkdir()
    yield Kept(None, descriptor, tmp_path / "node")
    os.close(descriptor)


def boot(auth: TinyAuth, place: Kept, token: str = "", device: Ed25519Key | None = None) -> dict[str, object]:
    return enrolment.boot(auth.address, token, [auth.cluster.pin], False, "x", place, device=device)


def shows(body: dict[str, Any], device: Ed25519Key) -> None:
    """The device key vouches for both keys of the request."""
    request = x509.load_pem_x509_csr(body["tls_csr"].encode()).public_bytes(Encoding.DER)
    digest = hashlib.sha256(request).digest() + hashlib.sha256(parse_public_line(body["ssh_public_key"])).digest()
    assert body["device_key"] == public_line(device.public_blob)
    verify(device.public_blob, b"tinyport-device-v1\0chall-enge\0" + digest, base64.b64decode(body["device_proof"]))


def test_a_device_boots_by_its_device_key_and_writes_none(auth: TinyAuth, memory: Kept) -> None:
    device = Ed25519Key.generate()
    identity = boot(auth, memory, TOKEN, device)
    ((path, body),) = auth.requests[2:]
    assert path == "/v1/boot"
    # The token is for who is not known yet.
    assert "token" not in body
    shows(body, device)
    assert memory.load() == identity
    names = sorted(found.name for found in memory.folder.iterdir())
    assert names == ["node.json", "policy.json"]
    # Renewing keeps it where it is, and puts no key aside.
    renewed = enrolment.renew_or_return(memory)
    assert memory.load() == renewed
    assert renewed["generation"] == 2
    there = b"".join(found.read_bytes() for found in memory.folder.iterdir())
    assert b"PRIVATE" not in there


def test_who_is_not_known_by_a_device_key_comes_with_a_token(auth: TinyAuth, memory: Kept) -> None:
    device = Ed25519Key.generate()
    auth.refusals["/v1/boot"] = 403, {"code": "unknown_device", "message": "who is that", "hint": "register it"}
    with pytest.raises(AccessDenied, match="who is that"):
        boot(auth, memory, device=device)
    boot(auth, memory, TOKEN, device)
    path, body = auth.requests[-1]
    assert (path, body["token"]) == ("/v1/join", TOKEN)
    shows(body, device)
    # The same keys as before: it is the same device that asks.
    assert len({body["ssh_public_key"] for path, body in auth.requests if path != "/v1/hello"}) == 1
    auth.refusals["/v1/join"] = 401, {"code": "bad_token", "message": "it is used up"}
    with pytest.raises(AccessDenied, match="who is that, and it is used up") as refused:
        boot(auth, memory, TOKEN, device)
    assert (refused.value.code, refused.value.hint) == ("unknown_device", "register it")


def test_without_a_device_key_the_token_says_who_it_is(auth: TinyAuth, memory: Kept) -> None:
    boot(auth, memory, TOKEN)
    path, body = auth.requests[-1]
    assert (path, body["token"]) == ("/v1/boot", TOKEN)
    assert "device_key" not in body


@pytest.mark.parametrize(("code", "boots"), [("replaced", True), ("denied", True), ("locked", False)])
def test_a_node_whose_place_was_taken_boots_again(auth: TinyAuth, memory: Kept, code: str, boots: bool) -> None:
    device = Ed25519Key.generate()
    (memory.folder / "key").write_bytes(device.to_openssh())
    before = boot(auth, memory, device=device)
    auth.refusals["/v1/renew"] = 403, {"code": code, "message": "no"}
    who: dict[str, Any] = {
        "server": list(auth.address),
        "token": None,
        "ca_pins": [auth.cluster.pin],
        "insecure": False,
    }
    who |= {"nodename": "x", "serial": "", "device_key": {"path": str(memory.folder / "key")}}
    task = {"mode": "renew", "in_memory": True, "boot": who}
    log = Log("test", "error", descriptor=-1)
    if boots:
        assert enrol.perform(task, memory, log)["ssh_key"] != before["ssh_key"]
        assert auth.requests[-1][0] == "/v1/boot"
    else:
        with pytest.raises(AccessDenied, match="no"):
            enrol.perform(task, memory, log)

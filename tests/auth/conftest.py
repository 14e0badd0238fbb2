"""An auth server on loopback with real TLS, and clients of every kind for it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tinyport.auth import retention
from tinyport.auth.listener import bind_tcp
from tinyport.auth.server import serve_service
from tinyport.auth.service import Service, open_service
from tinyport.auth.settings import AuthAddresses, AuthSettings, PasswordCost
from tinyport.core.certificate import public_line
from tinyport.core.signatures import Ed25519Key
from tinyport.host.tls import client_context, unverified_context

T = TypeVar("T")
CLUSTER = "farm.example"
START = 1_900_000_000.0


class Clock:
    """A clock that tests move. The same object is auth's wall clock and monotonic clock."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - START


def csr(key: Any, name: str = "anything") -> str:
    """A certificate request for a key, as PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def csr_der(pem: str) -> bytes:
    return x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER)


def private_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def proof(prefix: bytes, challenge: str, pem: str, key: Ed25519Key) -> str:
    data = prefix + challenge.encode() + b"\0" + hashlib.sha256(csr_der(pem)).digest()
    return base64.b64encode(key.sign_raw(data)).decode()


@dataclass
class Answer:
    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.body.get("error", {}).get("code", ""))

    @property
    def message(self) -> str:
        return str(self.body.get("error", {}).get("message", ""))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


class Client:
    """One kind of caller. Each request is a connection of its own unless ``keep`` is used."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection]) -> None:
        self.connect = connect

    def raw(self, method: str, path: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body=data or None, headers=dict(headers or {}))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return Answer(response.status, json.loads(text))

    def call(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        if query:
            path = f"{path}?{urlencode(query, doseq=True)}"
        return self.raw(method, path, b"" if body is None else json.dumps(body).encode())

    def get(self, path: str, **query: object) -> Answer:
        return self.call("GET", path, **query)

    def post(self, path: str, body: object = None) -> Answer:
        return self.call("POST", path, {} if body is None else body)

    def lines(self, path: str) -> Generator[dict[str, Any], None, None]:
        """A never-ending answer, line by line; close the generator to leave."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()


@dataclass
class Machine:
    """A node or proxy as it would keep itself."""

    key: Ed25519Key
    tls_key: Any
    request: str
    answer: dict[str, Any]
    client: Client

    @property
    def uuid(self) -> str:
        return str(self.answer["uuid"])

    @property
    def name(self) -> str:
        return str(self.answer["name"])


class AuthServer:
    """A running auth server and the ways to call it."""

    def __init__(self, settings: AuthSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="auth-under-test")
        self._thread.start()
        assert self._started.wait(20)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        try:
            self.tls_cas = self.anyone().get("/v1/hello").body["tls_cas"]
        except BaseException:
            self.stop()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self.service: Service = await open_service(self.settings)
        listening = bind_tcp(*self.settings.listen)
        try:
            await serve_service(self.service, listening, self._ready, self._stop)
        finally:
            listening.close()
            await self.service.close()

    def _ready(self, addresses: AuthAddresses) -> None:
        self.addresses = addresses
        self._started.set()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    # ---------------------------------------------------------------- callers

    def anyone(self) -> Client:
        return Client(lambda: self._https(unverified_context(alpn=["tinyport-auth"])))

    def local(self) -> Client:
        return Client(lambda: _UnixConnection(self.addresses.socket))

    def bearer(self, cert_pem: str, key: Any) -> Client:
        context = client_context(self.tls_cas, alpn=["tinyport-auth"], cert_pem=cert_pem, key_pem=private_pem(key))
        return Client(lambda: self._https(context))

    def _https(self, context: Any) -> http.client.HTTPConnection:
        host, port = self.addresses.listen
        return http.client.HTTPSConnection(host, port, context=context, timeout=20)

    # ---------------------------------------------------------------- what they do

    def token(self, type: str = "node", **fields: object) -> str:
        answer = self.local().post("/v1/tokens", {"type": type, **fields})
        assert answer.status == 200, answer
        return str(answer.body["token"])

    def join_body(
        self, token: str, name: str, key: Ed25519Key, tls_key: Any, kind: str = "node", **fields: object
    ) -> dict[str, object]:
        challenge = self.anyone().get("/v1/hello").body["challenge"]
        request = csr(tls_key)
        return {
            "token": token,
            "kind": kind,
            "nodename": name,
            "ssh_public_key": public_line(key.public_blob),
            "tls_csr": request,
            "challenge": challenge,
            "proof": proof(b"tinyport-join-v1\0", challenge, request, key),
            "version": "0.1.0",
            **fields,
        }

    def join(self, name: str, kind: str = "node", token: str | None = None, **fields: object) -> Machine:
        key, tls_key = Ed25519Key.generate(), ed25519.Ed25519PrivateKey.generate()
        body = self.join_body(token or self.token(kind), name, key, tls_key, kind, **fields)
        answer = self.anyone().post("/v1/join", body)
        assert answer.status == 200, answer
        client = self.bearer(answer.body["tls_certificate"], tls_key)
        return Machine(key, tls_key, str(body["tls_csr"]), answer.body, client)

    def add_user(self, name: str, roles: list[str], logins: list[str], password: str = "correct horse") -> None:
        made = self.local().post("/v1/users", {"name": name, "roles": roles, "logins": logins})
        assert made.status == 200, made
        signed = self.anyone().post("/v1/signup", {"invitation": made.body["invitation"], "password": password})
        assert signed.status == 200, signed

    def login_body(self, name: str, password: str, tls_key: Any, key: Ed25519Key | None = None) -> dict[str, object]:
        return {
            "user": name,
            "password": password,
            "ssh_public_key": public_line((key or Ed25519Key.generate()).public_blob),
            "tls_csr": csr(tls_key),
        }

    def login(self, name: str, password: str = "correct horse", **fields: object) -> tuple[Client, dict[str, Any]]:
        tls_key = ec.generate_private_key(ec.SECP256R1())
        answer = self.anyone().post("/v1/login", {**self.login_body(name, password, tls_key), **fields})
        assert answer.status == 200, answer
        return self.bearer(answer.body["tls_certificate"], tls_key), answer.body

    def user(self, name: str, roles: list[str], logins: list[str]) -> tuple[Client, dict[str, Any]]:
        self.add_user(name, roles, logins)
        return self.login(name)

    def role(self, name: str, **document: object) -> None:
        path = f"/v1/resources/role/{quote(name)}"
        answer = self.local().call("PUT", path, {"name": name, **document})
        assert answer.status == 200, answer

    def clock_followed(self) -> None:
        """Retention goes by today's date, as if all the time had been lived through."""

        async def follow() -> None:
            async with self.service.store.write() as tables:
                await tables.cluster.set_meta(retention.META, repr(self.service.now()))

        self.do(follow())

    def events(self, type: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.local().get("/v1/audit", type=type, limit=1000).body["events"]
        return found


def auth_settings(data_dir: Path, clock: Clock) -> AuthSettings:
    return AuthSettings(
        data_dir=data_dir,
        cluster_name=CLUSTER,
        listen=("127.0.0.1", 0),
        clock=clock,
        monotonic=clock.monotonic,
        log_level="error",
        password_cost=PasswordCost(memory_kib=8, passes=1),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., AuthServer]]:
    """Start servers, all on the same data; each must be stopped before the next."""
    running: list[AuthServer] = []

    def begin(**changes: Any) -> AuthServer:
        running.append(AuthServer(replace(auth_settings(tmp_path, clock), **changes), clock))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def auth(start: Callable[..., AuthServer]) -> AuthServer:
    return start()

"""A whole small cluster in memory: its authorities, its people, its machines."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import ssl
import sys
import time
import uuid as uuids
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyport.core.certificate import public_line
from tinyport.core.issue import issue_host_certificate, issue_user_certificate
from tinyport.core.policy import sign_document
from tinyport.core.roles import BUILTIN_ROLES
from tinyport.core.signatures import Ed25519Key
from tinyport.host import identity_file
from tinyport.host.files import private_folder
from tinyport.host.logging_line import Log
from tinyport.host.tls import client_context, server_context
from tinyport.link import websocket as ws
from tinyport.link.httphead import parse_head
from tinyport.proxy.credentials import obtain
from tinyport.proxy.server import Proxy
from tinyport.proxy.settings import ProxySettings
from tinyport.proxy.web_certificate import WebCertificate

Result = TypeVar("Result")

NAME = "farm"
DAY = 86400
#: seconds for tasks to end after their test
LEAVING_LIMIT = 5.0


def pytest_configure(config: pytest.Config) -> None:
    if not (3, 11) <= sys.version_info < (3, 13):
        # 3.10's asyncio forgets to close the transports of a TLS connection whose handshake failed, and 3.13's those
        # that a server accepts while it is being closed. The other two hold us to closing ours.
        config.addinivalue_line("filterwarnings", "ignore:unclosed (transport|<socket):ResourceWarning")


def run(main: Coroutine[Any, Any, Result], limit: float = 30.0) -> Result:
    """A test's main coroutine, which must leave nothing running and no future with a forgotten error."""
    complaints: list[Mapping[str, object]] = []

    async def guarded() -> Result:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        result = await asyncio.wait_for(main, limit)
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if left:
            # What was cancelled, or whose other end has just gone, is about to end.
            _, left = await asyncio.wait(left, timeout=LEAVING_LIMIT)
        assert not left, left
        return result

    result = asyncio.run(guarded())
    assert not complaints, complaints
    return result


def pem_of(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class TlsAuthority:
    """A TLS CA."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        # Two CAs of one name, and OpenSSL tries only the first.
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca {uuids.uuid4()}")])
        self.pem = self._build(self.name, self.key, None, False, DAY)

    def _build(self, name: x509.Name, key: Ed25519PrivateKey, uri: str | None, server: bool, life: int) -> str:
        now = datetime.datetime.fromtimestamp(int(time.time()), datetime.timezone.utc)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(seconds=life))
            .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
        )
        if uri is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        return builder.sign(self.key, None).public_bytes(Encoding.PEM).decode()

    def leaf(self, kind: str, id: str, cluster: str = NAME, life: int = DAY) -> tuple[str, str]:
        """Certificate and key (PEM)."""
        key = Ed25519PrivateKey.generate()
        uri = f"tinyport://{cluster}/{kind}/{id}"
        return self._build(x509.Name([]), key, uri, kind in ("proxy", "auth"), life), pem_of(key)


class Cluster:
    """What auth holds, and what it hands out."""

    def __init__(self) -> None:
        self.tls = TlsAuthority()
        self.user_ca = Ed25519Key.generate()
        self.host_ca = Ed25519Key.generate()
        self.policy_key = Ed25519Key.generate()
        self.serial = 0

    def policy(self, *, locks: Sequence[Mapping[str, object]] = (), **changes: object) -> dict[str, str]:
        """The next signed policy."""
        self.serial += 1
        body: dict[str, object] = {
            "kind": "policy",
            "cluster": NAME,
            "epoch": 1,
            "serial": self.serial,
            "issued_at": time.time(),
            "user_cas": [public_line(self.user_ca.public_blob)],
            "host_cas": [public_line(self.host_ca.public_blob)],
            "tls_cas": [self.tls.pem],
            "roles": {
                **BUILTIN_ROLES,
                "berlin": {
                    "name": "berlin",
                    "allow": {"logins": ["{{internal.logins}}"], "node_labels": {"site": ["berlin"]}},
                },
            },
            "locks": list(locks),
            "refuse_before": {},
            "config": {},
            "proxies": [],
        }
        body.update(changes)
        return sign_document(self.policy_key, body)

    def node_document(self, node: NodeFixture, *, serial: int = 1, **changes: object) -> dict[str, str]:
        body: dict[str, object] = {
            "kind": "node",
            "cluster": NAME,
            "epoch": 1,
            "serial": serial,
            "uuid": node.uuid,
            "name": node.name,
            "labels": dict(node.labels),
            "state": "active",
        }
        body.update(changes)
        return sign_document(self.policy_key, body)

    def user(self, name: str = "ada", roles: Sequence[str] = ("access",), **changes: object) -> UserFixture:
        return UserFixture(self, name, roles, **changes)

    def node(self, name: str, **labels: str) -> NodeFixture:
        return NodeFixture(self, name, labels)

    def proxy_identity(self, name: str = "proxy-1", life: int = 7 * DAY) -> dict[str, object]:
        """What identity.json of a joined proxy holds."""
        uuid = str(uuids.uuid4())
        key = Ed25519Key.generate()
        now = int(time.time())
        certificate = issue_host_certificate(
            self.host_ca,
            public_key=key.public_blob,
            serial=1,
            nonce=os.urandom(32),
            cluster=NAME,
            uuid=uuid,
            name=name,
            role="proxy",
            generation=1,
            now=now,
            ttl=life,
            extra_principals=["proxy", f"proxy.{NAME}", "127.0.0.1", "localhost"],
        )
        tls_certificate, tls_key = self.tls.leaf("proxy", uuid)
        return {
            "version": 1,
            "kind": "proxy",
            "cluster": NAME,
            "uuid": uuid,
            "name": name,
            "generation": 1,
            "ssh_key": key.to_openssh().decode(),
            "ssh_certificate": public_line(certificate),
            "tls_key": tls_key,
            "tls_certificate": tls_certificate,
            "tls_cas": [self.tls.pem],
            "policy_key": public_line(self.policy_key.public_blob),
            "server": "127.0.0.1:3025",
            "proxies": [],
            "ca_pins": ["sha256:" + "0" * 64],
            "valid_after": now - 60,
            "valid_before": now + life,
        }


class UserFixture:
    """A user with one fresh login: SSH key and certificate, TLS key and certificate."""

    def __init__(self, cluster: Cluster, name: str, roles: Sequence[str], **changes: Any) -> None:
        self.cluster = cluster
        self.name = name
        self.key = Ed25519Key.generate()
        logins = changes.pop("logins", ["pi", "deploy"])
        tls_life = changes.pop("tls_life", DAY)
        values: dict[str, Any] = {
            "public_key": self.key.public_blob,
            "serial": 7,
            "nonce": os.urandom(32),
            "cluster": NAME,
            "user": name,
            "logins": logins,
            "roles": roles,
            "traits": {"logins": logins},
            "permits": ["pty"],
            "now": int(time.time()),
            "ttl": 3600,
        }
        values.update(changes)
        ca = values.pop("ca", cluster.user_ca)
        self.certificate = issue_user_certificate(ca, **values)
        self.tls_certificate, self.tls_key = cluster.tls.leaf("user", name, life=tls_life)

    def context(self, alpn: str = "tinyport-ssh") -> ssl.SSLContext:
        return client_context([self.cluster.tls.pem], alpn=[alpn], cert_pem=self.tls_certificate, key_pem=self.tls_key)


class NodeFixture:
    """A node's name and identity."""

    def __init__(self, cluster: Cluster, name: str, labels: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.name = name
        self.uuid = str(uuids.uuid4())
        self.labels = labels
        self.tls_certificate, self.tls_key = cluster.tls.leaf("node", self.uuid)

    def context(self, alpn: str = "tinyport-tunnel") -> ssl.SSLContext:
        return client_context([self.cluster.tls.pem], alpn=[alpn], cert_pem=self.tls_certificate, key_pem=self.tls_key)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node is waited for that ends by itself what is not allowed any more: these here do not."""
    monkeypatch.setattr("tinyport.proxy.access.CUT_AFTER", 0.01)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster()


class FakeAuth:
    """Auth as the proxy sees it. ``refusals`` maps a target to the error object that /v1/access answers with."""

    def __init__(self, cluster: Cluster, nodes: Sequence[NodeFixture] = ()) -> None:
        self.cluster = cluster
        self.nodes = list(nodes)
        self.policy = cluster.policy()
        self.refusals: dict[str, tuple[int, dict[str, object]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.online: dict[str, dict[str, Any]] = {}
        #: node → instances of its copies that are connected
        self.copies: dict[str, list[str]] = {}
        #: cleared: questions about access are heard and not answered
        self.answers = asyncio.Event()
        self.answers.set()
        self.changed = asyncio.Event()
        self.port = 0
        self._watchers: set[asyncio.Queue[dict[str, object]]] = set()
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    async def start(self, kind: str = "auth") -> None:
        application = web.Application()
        application.router.add_get("/v1/watch", self._watch)
        application.router.add_get("/v1/hello", self._hello)
        application.router.add_post("/v1/presence", self._presence)
        application.router.add_post("/v1/access", self._access)
        application.router.add_post("/v1/access/nodes", self._access_nodes)
        application.router.add_post("/v1/events", self._events)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        certificate, key = self.cluster.tls.leaf(kind, str(uuids.uuid4()))
        context = server_context(
            [self.cluster.tls.pem],
            alpn=["tinyport-auth", "http/1.1"],
            cert_pem=certificate,
            key_pem=key,
            client="optional",
        )
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """As kill -9 would: connections break."""
        if self._runner is not None:
            for queue in self._watchers:
                queue.put_nowait({})
            await self._runner.cleanup()
            self._runner = None

    def say(self, line: dict[str, object]) -> None:
        """To every watching proxy."""
        if "policy" in line:
            self.policy = line["policy"]  # type: ignore[assignment]
        for queue in self._watchers:
            queue.put_nowait(line)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that a proxy said makes ``condition`` true."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.1.0", "cluster": NAME})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        first = [{"policy": self.policy}, *({"node": self.cluster.node_document(node)} for node in self.nodes)]
        for line in [*first, {"keepalive": time.time()}]:
            await response.write(json.dumps(line).encode() + b"\n")
        self._watchers.add(queue)
        self.changed.set()
        try:
            while line := await queue.get():
                await response.write(json.dumps(line).encode() + b"\n")
        finally:
            self._watchers.discard(queue)
        return response

    async def _presence(self, request: web.Request) -> web.Response:
        report = await request.json()
        self.reports.append(report)
        if report["full"]:
            self.online.clear()
        for node in report["nodes"]:
            self.copies.pop(node["uuid"], None)
            if node.get("copies"):
                self.copies[node["uuid"]] = [copy["instance"] for copy in node["copies"]]
            if node["online"]:
                self.online[node["uuid"]] = node
            else:
                self.online.pop(node["uuid"], None)
        self.changed.set()
        return web.json_response({"lease": 30})

    async def _access(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.changed.set()
        await self.answers.wait()
        if body["target"] in self.refusals:
            status, error = self.refusals[body["target"]]
            return web.json_response({"error": error}, status=status)
        for node in self.nodes:
            if body["target"] in (node.name, node.uuid):
                return web.json_response({"node": {"uuid": node.uuid, "name": node.name}, "user": "x"})
        error = {"code": "no_such_node", "message": f"no such node: {body['target']}"}
        return web.json_response({"error": error}, status=404)

    async def _access_nodes(self, request: web.Request) -> web.Response:
        return web.json_response({"nodes": [{"uuid": node.uuid, "name": node.name} for node in self.nodes]})

    async def _events(self, request: web.Request) -> web.Response:
        self.events.extend((await request.json())["events"])
        self.changed.set()
        return web.json_response({"accepted": 1})


class FakeNode:
    """A node's link: its tunnel, and dial-backs that echo what they hear after a greeting."""

    GREETING = b"SSH-2.0-fake\r\n"

    def __init__(self, node: NodeFixture, proxy: tuple[str, int]) -> None:
        self.node = node
        self.proxy = proxy
        self.messages: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        #: how often it was asked whether it is there
        self.asked = 0
        self.changed = asyncio.Event()
        self.dials_back = True
        #: what is done with a dialled-back connection
        self.session: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = self.echo
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoder = ws.Decoder("client", 2 * 1024 * 1024)

    async def connect(self, hello: Mapping[str, object] | None = None, *, welcome: bool = True) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            *self.proxy, ssl=self.node.context(), server_hostname="proxy"
        )
        key = ws.make_key(os.urandom(16))
        self._writer.write(ws.client_handshake("/v1/tunnel", "proxy", key))
        head = parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        assert head is not None
        ws.check_response(head, key)
        self.say({**self.hello(), **(hello or {})})
        self._start(self._reading())
        if welcome:
            await self.heard("welcome")

    def hello(self) -> dict[str, object]:
        return {
            "op": "hello",
            "version": "0.1.0",
            "uuid": self.node.uuid,
            "policy": [0, 0],
            "node": [0, 0],
            "addresses": ["10.0.0.7:3022"],
            "labels": {"model": "pi4"},
        }

    def say(self, message: Mapping[str, object]) -> None:
        self.frame(ws.OP_TEXT, json.dumps(message).encode())

    def frame(self, opcode: int, payload: bytes = b"") -> None:
        self._writer.write(ws.encode(opcode, payload, os.urandom(4)))

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def heard(self, op: str, count: int = 1) -> dict[str, Any]:
        """The ``count``-th message of this kind, waiting for it."""
        while True:
            found = [message for message in self.messages if message["op"] == op]
            if len(found) >= count:
                return found[count - 1]
            assert self.closed is None, self.closed
            self.changed.clear()
            await self.changed.wait()

    async def gone(self) -> tuple[int, str]:
        """Wait until the proxy has ended the tunnel: the close frame's code and reason."""
        while self.closed is None:
            self.changed.clear()
            await self.changed.wait()
        return self.closed

    async def _reading(self) -> None:
        try:
            while data := await self._reader.read(65536):
                for opcode, payload in self._decoder.feed(data):
                    if opcode == ws.OP_CLOSE:
                        self.closed = ws.close_reason(payload)
                    elif opcode == ws.OP_PING:
                        self.asked += 1
                    elif opcode == ws.OP_TEXT:
                        message = json.loads(payload)
                        self.messages.append(message)
                        if message["op"] == "dial" and self.dials_back:
                            self._start(self.dial_back(message["ticket"]))
                    self.changed.set()
        except OSError:
            pass
        self.closed = self.closed or (1006, "")
        self.changed.set()

    async def dial_back(self, ticket: str) -> None:
        context = client_context([self.node.cluster.tls.pem], alpn=["tinyport-dial"])
        reader, writer = await asyncio.open_connection(*self.proxy, ssl=context, server_hostname="proxy")
        writer.write(ticket.encode() + b"\n")
        try:
            await self.session(reader, writer)
        except OSError:
            pass
        finally:
            await close(writer)

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.GREETING)
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await close(self._writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close an asyncio stream whatever state it is in."""
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


class World:
    """A proxy that runs, with its fake auth."""

    def __init__(self, cluster: Cluster, auth: FakeAuth, folder: Path) -> None:
        self.cluster = cluster
        self.auth = auth
        self.folder = folder
        self.address = ("127.0.0.1", 0)
        self.proxy: Proxy
        self._nodes: list[FakeNode] = []

    async def node(self, fixture: NodeFixture, **hello: object) -> FakeNode:
        """A node with its tunnel up."""
        node = self.unconnected(fixture)
        await node.connect(hello)
        return node

    def unconnected(self, fixture: NodeFixture) -> FakeNode:
        node = FakeNode(fixture, self.address)
        self._nodes.append(node)
        return node

    async def tls(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=context, server_hostname="proxy", limit=2**20)

    async def tsh(
        self, user: UserFixture, target: str, login: str = "pi", **changes: object
    ) -> tuple[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter]:
        """What ``tsh ssh`` does: the proxy's answer, and the stream."""
        reader, writer = await self.tls(user.context())
        certificate = base64.b64encode(user.certificate).decode()
        request = {"version": 1, "certificate": certificate, "target": target, "login": login, **changes}
        writer.write(json.dumps(request).encode() + b"\n")
        return json.loads(await reader.readline()), reader, writer

    async def refused(self, user: UserFixture, target: str, login: str = "pi", **changes: object) -> dict[str, Any]:
        """The error object of a refusal."""
        answer, reader, writer = await self.tsh(user, target, login, **changes)
        assert answer["ok"] is False, answer
        assert await reader.read() == b""
        await close(writer)
        error: dict[str, Any] = answer["error"]
        return error

    async def stop_nodes(self) -> None:
        for node in self._nodes:
            if hasattr(node, "_writer"):
                await node.stop()


@asynccontextmanager
async def world(
    cluster: Cluster, folder: Path, nodes: Sequence[NodeFixture] = (), *, auth_up: bool = True, **changes: Any
) -> AsyncIterator[World]:
    """A proxy on loopback, joined, listening; auth is there unless told otherwise."""
    auth = FakeAuth(cluster, nodes)
    await auth.start()
    if not auth_up:
        await auth.stop()
    made = World(cluster, auth, folder)
    settings = ProxySettings(
        data_dir=folder,
        listen=("127.0.0.1", 0),
        public_addr=("127.0.0.1:3080",),
        auth_address=auth.address,
        **{"log_level": "error", **changes},
    )
    private_folder(settings.folder)
    if not settings.identity_path.exists():
        identity_file.save(settings.identity_path, cluster.proxy_identity())
    log = Log("test", "error")
    proxy = Proxy(settings, await obtain(settings, log), WebCertificate(settings, log))
    made.proxy = proxy
    ready = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    running = asyncio.ensure_future(proxy.run(ready.set_result, stop))
    try:
        await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        made.address = ready.result()
        if auth_up:
            await proxy.authlink.synced.wait()
        yield made
    finally:
        stop.set()
        await running
        await made.stop_nodes()
        await auth.stop()

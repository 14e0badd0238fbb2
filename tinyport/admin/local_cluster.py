"""Roles of one machine: started in order, each told where the one before it listens, and let in by it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinyport.admin import config_file
from tinyport.admin.supervisor import Supervisor
from tinyport.core.config import Config
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import format_address, parse_address
from tinyport.host.machine import api_socket, dialable, identity_path, nodename
from tinyport.link.api import AuthClient

#: Life of the token by which a role of this machine joins (seconds): it is used at once, and once.
TOKEN_LIFE = 600
#: How long a role may take until it serves when it need not wait for another machine.
READY_LIMIT = 120.0
#: How long the node's first beat may take to be known at auth.
ONLINE_LIMIT = 60.0
#: The highest port that Linux gives to nobody who connects (ip(7), ip_local_port_range), and how many of those to try.
UNASKED = 32767
TRIES = 20
#: The role that a role asks to be let in.
_DOOR = {"proxy": "auth", "node": "proxy"}

Document = dict[str, Any]


def role_document(role: str, document: Document, config: Config) -> Document:
    """What of the configuration is this role's business: ``[tinyport]`` and its own section.

    When its cluster is on this machine, ``server`` is where that listens.
    """
    general = dict(document.get("tinyport", {}))
    door = _DOOR.get(role)
    if door is not None and door in document and (door in config.roles or config.tinyport.server is None):
        general["server"] = format_address(*dialable(getattr(config, door).listen))
    if role == "auth":
        # A token is for joining, and auth joins nobody.
        general.pop("token", None)
    if role == "proxy" and config.tinyport.diag_addr is not None and "auth" in document:
        # Two processes cannot have one port: auth has it, the proxy the next.
        host, port = config.tinyport.diag_addr
        general["diag_addr"] = format_address(host, port + 1)
    if role == "proxy" and ("node" in document or config.tinyport.nodename is None):
        # Names are unique, and the machine's own is for its node, which may be a service of its own.
        general["nodename"] = f"proxy-{nodename(config)}"[:63].rstrip("-.")
    return {"tinyport": general, role: {**document.get(role, {}), "enabled": True}}


def with_token(role: str, document: Document, config: Config) -> Document:
    """``document`` with a single-use token, when the role has not joined, has no token of its own, and auth's socket is
    on this machine. Whoever may open that socket may make tokens anyway.
    """
    socket = api_socket(config.tinyport.data_dir)
    joined = identity_path(config.tinyport.data_dir, role).exists()
    if role == "auth" or joined or config.tinyport.token is not None or not socket.exists():
        return document
    with AuthClient(socket) as client:
        made = client.request("POST", "/v1/tokens", {"type": role, "ttl": TOKEN_LIFE, "uses": 1})
    token, pins = made.get("token"), made.get("ca_pins")
    if not isinstance(token, str) or not isinstance(pins, list):
        raise OperatorError("auth made no token")
    return {**document, "tinyport": {**document["tinyport"], "token": token, "ca_pin": pins}}


class LocalCluster:
    """The roles of one configuration under a supervisor.

    ``document``: the parsed configuration file. Where a role listens on a port that the system chose, the document says
    so from then on, and the role has the same one when it is started again. ``reread``: how roles read their
    configuration again, see ``reread.again``.
    """

    def __init__(
        self,
        document: Document,
        source: str,
        supervisor: Supervisor,
        reread: tuple[list[str], dict[str, object]] | None = None,
    ) -> None:
        self._document = {name: dict(section) for name, section in document.items()}
        self._source = source
        self._supervisor = supervisor
        self._reread = reread

    @property
    def config(self) -> Config:
        """The configuration as it is now. ConfigError when it is wrong."""
        return config_file.check(self._document, self._source)

    def start(self, *, insecure_no_ca_pin: bool = False) -> dict[str, dict[str, Any]]:
        """Start the enabled roles and wait until each serves. Their ready lines by name."""
        roles = self.config.roles
        answers: dict[str, dict[str, Any]] = {}
        for role in roles:
            # A machine whose cluster is elsewhere waits for it as long as it takes.
            limit = READY_LIMIT if role == "auth" or _DOOR[role] in roles else None
            task = self._task(role, insecure_no_ca_pin, with_token)
            answers[role] = answer = self._supervisor.start(role, task, limit=limit)
            listening = answer.get("listen") if role == "node" else answer.get("address")
            if listening is not None:
                self._document.setdefault(role, {})["listen"] = listening
            self._supervisor.retask(role, self._task(role, insecure_no_ca_pin, None))
        return answers

    def _task(self, role: str, insecure_no_ca_pin: bool, join: Any) -> dict[str, Any]:
        config = self.config
        document = role_document(role, self._document, config)
        if join is not None:
            document = join(role, document, config)
        task = {"document": document, "source": self._source, "insecure_no_ca_pin": insecure_no_ca_pin}
        if self._reread is not None:
            task["reread"] = self._reread
        return task

    def wait_online(self, name: str, limit: float = ONLINE_LIMIT) -> None:
        """Wait until auth lists node ``name`` as online. OperatorError after ``limit`` seconds; Stopped."""
        end = time.monotonic() + limit
        while name not in online_nodes(self.config):
            if time.monotonic() > end:
                raise OperatorError(f"node {name} did not come online within {limit:.0f} s")
            self._supervisor.pause(0.1)


def online_nodes(config: Config) -> set[str]:
    """The names of the nodes that auth lists as online; none when auth does not answer just now."""
    try:
        with AuthClient(api_socket(config.tinyport.data_dir)) as client:
            listed = client.request("GET", "/v1/nodes").get("nodes")
    except TinyportError:
        return set()
    nodes = [node for node in listed if isinstance(node, Mapping)] if isinstance(listed, list) else []
    return {str(node.get("name")) for node in nodes if node.get("status") == "online"}


def listening_address(text: str, default_port: int, preferred: str | None) -> str:
    """``host:port`` with a port that is free now when it was 0: ``preferred``'s, if that still is.

    For a proxy, whose address others are told before it listens. One that the kernel gives to nobody who connects, so
    that nobody has it when the proxy listens, or starts again. OperatorError when there is none.
    """
    import secrets
    import socket

    host, port = parse_address(text, default_port)
    if port:
        return format_address(host, port)
    wishes = [*(UNASKED - secrets.randbelow(UNASKED // 2) for _ in range(TRIES)), 0]
    if preferred:
        with_host, wish = parse_address(preferred, default_port)
        if with_host == host:
            wishes.insert(0, wish)
    reason = ""
    for wish in wishes:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, wish), family=family) as server:
                return format_address(host, int(server.getsockname()[1]))
        except OSError as error:
            reason = error.strerror or str(error)
    raise OperatorError(f"cannot listen on {format_address(host, 0)}: {reason.lower()}")

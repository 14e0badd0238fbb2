"""Roles of one machine: started in order, each let in by the one before."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tinyport.admin import config_file
from tinyport.admin.supervisor import Supervisor
from tinyport.core.config import Config
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.link.api import AuthClient
from tinyport.start import api_socket, identity_path

#: Life of the token by which a role of this machine joins: it is used at once, and once.
TOKEN_LIFE = 600
#: How long the node's first beat may take to be known at auth.
ONLINE_LIMIT = 60.0


class LocalCluster:
    """Starts the roles of one configuration under a supervisor.

    ``document`` is the parsed configuration file; ports that the system chose are written into it, so that a role
    that is started
    again has the same one. A role without an identity and without a token, on the machine where auth runs, joins
    by a token
    that this process asks of auth's unix socket: whoever may open it may make tokens anyway.
    """

    def __init__(self, document: dict[str, Any], source: str, supervisor: Supervisor) -> None:
        self.document = document
        self._source = source
        self._supervisor = supervisor
        self._insecure = False

    @property
    def config(self) -> Config:
        return config_file.check(self.document, self._source)

    def start(self, roles: tuple[str, ...], *, insecure_no_ca_pin: bool = False) -> dict[str, dict[str, Any]]:
        """Start ``roles`` and wait until each serves. Their ready lines by name."""
        self._insecure = insecure_no_ca_pin
        answers: dict[str, dict[str, Any]] = {}
        for role in roles:
            # A node may wait for its server as long as it takes, but not for one that we have just started.
            limit = None if role == "node" and "proxy" not in roles else 120.0
            answers[role] = answer = self._supervisor.start(role, self._task(role, roles), limit=limit)
            if role in ("auth", "proxy"):
                self.document.setdefault(role, {})["listen"] = answer["address"]
        return answers

    def _task(self, role: str, roles: tuple[str, ...]) -> dict[str, Any]:
        task: dict[str, Any] = {
            "document": self.document,
            "source": self._source,
            "insecure_no_ca_pin": self._insecure,
        }
        config = self.config
        joined = identity_path(config, role).exists()
        if role != "auth" and "auth" in roles and config.tinyport.token is None and not joined:
            token, pins = self._token(role)
            document = {**self.document, "tinyport": {**self.document.get("tinyport", {})}}
            document["tinyport"].update(token=token, ca_pin=pins)
            task["document"] = document
        return task

    def _token(self, role: str) -> tuple[str, list[str]]:
        with AuthClient(api_socket(self.config)) as client:
            made = client.request("POST", "/v1/tokens", {"type": role, "ttl": TOKEN_LIFE, "uses": 1})
        token, pins = made.get("token"), made.get("ca_pins")
        if not isinstance(token, str) or not isinstance(pins, list):
            raise OperatorError("auth made no token")
        return token, pins


def wait_online(config: Config, name: str, supervisor: Supervisor, limit: float = ONLINE_LIMIT) -> None:
    """Wait until auth lists node ``name`` as online. OperatorError after ``limit`` seconds."""
    end = time.monotonic() + limit
    while True:
        if name in online_nodes(config):
            return
        if supervisor.stopping:
            raise KeyboardInterrupt
        if time.monotonic() > end:
            raise OperatorError(f"node {name} did not come online within {limit:.0f} s")
        time.sleep(0.1)


def online_nodes(config: Config) -> set[str]:
    """The names of the nodes that auth lists as online; none when auth does not answer just now."""
    try:
        with AuthClient(api_socket(config)) as client:
            listed = client.request("GET", "/v1/nodes").get("nodes")
    except TinyportError:
        return set()
    nodes = [node for node in listed if isinstance(node, Mapping)] if isinstance(listed, list) else []
    return {str(node.get("name")) for node in nodes if node.get("status") == "online"}

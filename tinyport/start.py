"""The composition root: from a checked configuration to a running role.

The only module that may import every program; each role is imported where it is started, so that a node's process never
loads auth's libraries.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from tinyport.core.config import Config
from tinyport.core.errors import OperatorError
from tinyport.core.names import check_node, format_address, parse_address

Say = Callable[[Mapping[str, object]], None]

LOOPBACK = "127.0.0.1"


def nodename(config: Config) -> str:
    """The configured name with its templates filled in; default the host's, made to fit."""
    template = config.tinyport.nodename
    if template is None:
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in socket.gethostname().lower())
        return check_node(name.strip("-.")[:63].rstrip("-.") or "node")
    return check_node(template.replace("{serial}", _serial()).replace("{mac}", _mac()).lower())


def _serial() -> str:
    """The board's serial number: the device tree's (Raspberry Pi), else the machine id's beginning."""
    for path in ("/sys/firmware/devicetree/base/serial-number", "/etc/machine-id"):
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace").strip("\0\n ")
        except OSError:
            continue
        if text.isalnum():
            return text[-16:].lower()
    raise OperatorError("this machine has no serial number", hint="give tinyport.nodename without {serial}")


def _mac() -> str:
    """The hardware address of the first interface that has one, without colons."""
    for path in sorted(Path("/sys/class/net").glob("*/address")):
        text = path.read_text(encoding="ascii").strip().replace(":", "")
        if path.parent.name != "lo" and text.strip("0"):
            return text
    raise OperatorError("this machine has no network interface", hint="give tinyport.nodename without {mac}")


def auth_folder(config: Config) -> Path:
    return Path(config.tinyport.data_dir) / "auth"


def api_socket(config: Config) -> Path:
    """Where auth's unix socket is when it runs on this machine."""
    return auth_folder(config) / "api.sock"


def identity_path(config: Config, role: str) -> Path:
    return Path(config.tinyport.data_dir) / role / "identity.json"


def _reachable(address: tuple[str, int]) -> tuple[str, int]:
    """A listening address as somebody on this machine can dial it."""
    host, port = address
    return (LOOPBACK if host in ("0.0.0.0", "::", "") else host, port)  # noqa: S104 - compared, not bound


def run_auth(config: Config, say: Say) -> int:
    """Be the auth server until SIGTERM. ``say`` gets the address and the pins once it serves."""
    from tinyport.auth.server import run
    from tinyport.auth.settings import AuthAddresses, AuthSettings, StaticToken

    def ready(addresses: AuthAddresses) -> None:
        say({"address": format_address(*addresses.listen), "ca_pins": list(addresses.ca_pins)})

    settings = AuthSettings(
        data_dir=Path(config.tinyport.data_dir),
        cluster_name=config.auth.cluster_name or "",
        listen=config.auth.listen,
        static_tokens=tuple(
            StaticToken(type=token.type, value=token.value, labels=token.labels) for token in config.auth.static_tokens
        ),
        log_level=config.tinyport.log_level,
        log_format=config.tinyport.log_format,
    )
    return run(settings, ready)


def run_proxy(config: Config, say: Say) -> int:
    """Be a proxy until SIGTERM. ``say`` gets the public address once it serves."""
    from tinyport.proxy.server import run
    from tinyport.proxy.settings import ProxySettings

    server = _reachable(config.auth.listen) if config.auth.enabled else config.tinyport.server
    if server is None:
        raise OperatorError("the proxy is not told where auth is", hint='set tinyport.server = "auth-host:3025"')
    settings = ProxySettings(
        data_dir=Path(config.tinyport.data_dir),
        listen=config.proxy.listen,
        public_addr=config.proxy.public_addr,
        auth_address=server,
        token=config.tinyport.token or "",
        ca_pins=config.tinyport.ca_pins,
        web_cert=None if config.proxy.tls_cert is None else Path(config.proxy.tls_cert),
        web_key=None if config.proxy.tls_key is None else Path(config.proxy.tls_key),
        nodename=_role_name(config, "proxy"),
        log_level=config.tinyport.log_level,
        log_format=config.tinyport.log_format,
    )
    return run(settings, lambda address: say({"address": format_address(*address)}))


def _role_name(config: Config, role: str) -> str:
    # The node of this machine has the machine's name; a proxy beside it needs another, since names are unique.
    return f"{role}-{nodename(config)}"[:63].rstrip("-.") if config.node.enabled else nodename(config)


def run_node(config: Config, ready_fd: int | None, *, insecure_no_ca_pin: bool) -> int:
    """Become the node's monitor (by exec). Its first line on ``ready_fd`` is JSON, once the tunnel is up."""
    from tinyport.node.launcher import run
    from tinyport.node.settings import LabelCommand, NodeSettings

    node, general = config.node, config.tinyport
    server = _reachable(config.proxy.listen) if config.proxy.enabled else general.server
    if server is None:
        raise OperatorError(
            "the node is not told where its cluster is", hint='set tinyport.server = "proxy-host:3080", or --server'
        )
    for address in node.advertise:
        parse_address(address)
    run(
        NodeSettings(
            data_dir=Path(general.data_dir),
            nodename=nodename(config),
            server=server,
            token=general.token,
            ca_pins=general.ca_pins,
            insecure_no_ca_pin=insecure_no_ca_pin,
            listen=node.listen,
            advertise=node.advertise,
            labels=tuple(node.labels.items()),
            commands=tuple(LabelCommand(c.name, c.command, float(c.period)) for c in node.commands),
            worker_idle=float(node.worker_idle),
            connections_per_worker=node.connections_per_worker,
            memory_limit=_memory_limit(config),
            banner=node.banner,
            user=node.user,
            log_level=general.log_level,
            log_format=general.log_format,
            ready_fd=ready_fd,
        )
    )
    return 0


def _memory_limit(config: Config) -> int | None:
    if config.node.memory_share is None:
        return config.node.memory_bytes
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * config.node.memory_share)


def run_role(role: str, config: Config, ready_fd: int | None, *, insecure_no_ca_pin: bool = False) -> int:
    """Be one role in this process. Whoever holds the other end of ``ready_fd`` reads one line of JSON when it
    serves.
    """
    if role == "node":
        return run_node(config, ready_fd, insecure_no_ca_pin=insecure_no_ca_pin)

    def say(fields: Mapping[str, object]) -> None:
        if ready_fd is not None:
            os.write(ready_fd, json.dumps(fields).encode() + b"\n")
            os.close(ready_fd)

    return {"auth": run_auth, "proxy": run_proxy}[role](config, say)

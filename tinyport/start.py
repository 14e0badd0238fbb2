"""The composition root: from a checked configuration to a running role.

The only module that may import every program. Each role is imported where it is started, so that a node's process never
loads auth's libraries.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinyport.core.config import Config
from tinyport.core.errors import OperatorError
from tinyport.core.names import format_address
from tinyport.host import libraries
from tinyport.host.files import erase
from tinyport.host.logging_line import Log
from tinyport.host.machine import labels, memory_size, nodename, serial
from tinyport.host.sd_notify import keep_alive, notify

if TYPE_CHECKING:
    from tinyport.auth.restore import Restored

if TYPE_CHECKING:
    from tinyport.node.settings import NodeSettings
    from tinyport.proxy.settings import ProxySettings

#: a command line and what it is told, see node.settings.Reread
Again = tuple[Sequence[str], Mapping[str, object]]
#: the configuration as it is now; TinyportError when the role would not start with it
Read = Callable[[], Config]
Say = Callable[[Mapping[str, object]], None]


def run_role(
    role: str,
    config: Config,
    ready_fd: int | None,
    *,
    insecure_no_ca_pin: bool = False,
    again: Again | None = None,
    read: Read | None = None,
) -> int:
    """Be ``role`` ("auth", "proxy" or "node") in this process until SIGTERM; the exit status.

    Whoever holds the other end of ``ready_fd`` reads one line of JSON when the role serves: ``address`` of auth and
    proxy, ``listen`` (a list) of a node. ``again``: how a node has its configuration read again; ``read``: how a proxy
    does that. Raises TinyportError when the role cannot start.
    """
    if role == "node":
        return _run_node(config, ready_fd, insecure_no_ca_pin, again)
    # A supervisor hands a reload on to each role, and none may end by it. Auth has nothing to read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def say(fields: Mapping[str, object]) -> None:
        if ready_fd is not None:
            os.write(ready_fd, json.dumps(fields).encode() + b"\n")
            os.close(ready_fd)
        _tell_systemd()

    if role == "auth":
        return _run_auth(config, say)
    return _run_proxy(config, say, insecure_no_ca_pin, read)


def _tell_systemd() -> None:
    """A role that is the service itself serves, and gives signs of life from its event loop."""
    import asyncio

    notify("READY=1")
    keep_alive(asyncio.get_running_loop().call_later)


def restore_auth(data_dir: Path, backup: Path, now: float) -> Restored:
    """``tctl restore``: make a backup the store of the auth server that is (not) running here."""
    from tinyport.auth.restore import restore

    return restore(data_dir, backup, now)


def encrypt_auth_keys(data_dir: Path, passphrase: str, current: str | None) -> int:
    """``tctl auth encrypt-keys``: see ``auth.store_sealing``."""
    from tinyport.auth.store_sealing import encrypt_keys

    return encrypt_keys(data_dir, passphrase, current)


def decrypt_auth_keys(data_dir: Path, current: str) -> int:
    """``tctl auth decrypt-keys``: see ``auth.store_sealing``."""
    from tinyport.auth.store_sealing import decrypt_keys

    return decrypt_keys(data_dir, current)


def _run_auth(config: Config, say: Say) -> int:
    from tinyport.auth.server import run
    from tinyport.auth.settings import AuditSinks, AuthAddresses, AuthSettings, StaticToken

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
        audit_sinks=AuditSinks(
            file=None if config.auth.audit_file is None else Path(config.auth.audit_file),
            syslog=config.auth.audit_syslog,
        ),
        key_passphrase=config.auth.key_passphrase,
        diagnostics=config.tinyport.diag_addr,
        trusted_clusters=config.trusted_clusters,
    )
    return run(settings, ready)


def _proxy_settings(config: Config, insecure_no_ca_pin: bool) -> ProxySettings:
    from tinyport.proxy.settings import ProxySettings

    server = config.tinyport.server
    if server is None:
        raise OperatorError("the proxy is not told where auth is", hint='set tinyport.server = "auth-host:3025"')
    return ProxySettings(
        data_dir=Path(config.tinyport.data_dir),
        listen=config.proxy.listen,
        public_addr=config.proxy.public_addr,
        auth_address=server,
        token=config.tinyport.token or "",
        ca_pins=config.tinyport.ca_pins,
        insecure_no_ca_pin=insecure_no_ca_pin,
        web_cert=None if config.proxy.tls_cert is None else Path(config.proxy.tls_cert),
        web_key=None if config.proxy.tls_key is None else Path(config.proxy.tls_key),
        proxy_protocol_from=config.proxy.proxy_protocol_from,
        forwarded_from=config.proxy.forwarded_from,
        forwarded_header=config.proxy.forwarded_header,
        nodename=nodename(config),
        diagnostics=config.tinyport.diag_addr,
        log_level=config.tinyport.log_level,
        log_format=config.tinyport.log_format,
    )


def _run_proxy(config: Config, say: Say, insecure_no_ca_pin: bool, read: Read | None) -> int:
    libraries.ask_nobody()
    from tinyport.proxy.server import run

    def ready(address: tuple[str, int]) -> None:
        if config.tinyport.token_file is not None:
            try:
                erase(config.tinyport.token_file)
            except OSError as error:
                log = Log("proxy", config.tinyport.log_level, config.tinyport.log_format)
                log.warning("the join token could not be erased", file=config.tinyport.token_file, reason=error)
        say({"address": format_address(*address)})

    again = None if read is None else lambda: _proxy_settings(read(), insecure_no_ca_pin)
    return run(_proxy_settings(config, insecure_no_ca_pin), ready, again)


def _run_node(config: Config, ready_fd: int | None, insecure_no_ca_pin: bool, again: Again | None) -> int:
    """Becomes the node's monitor by ``exec``, so it comes back only with an error."""
    from tinyport.node.launcher import run
    from tinyport.node.settings import Reread

    reread = None if again is None else Reread(tuple(again[0]), again[1])
    run(replace(_node_settings(config), ready_fd=ready_fd, insecure_no_ca_pin=insecure_no_ca_pin, reread=reread))


def node_configuration(config: Config) -> dict[str, object]:
    """What a running node's monitor is to be told after the configuration was read again."""
    from tinyport.node.launcher import configuration_again

    return configuration_again(_node_settings(config))


def _node_settings(config: Config) -> NodeSettings:
    from tinyport.node.settings import LabelCommand, NodeSettings

    node, general = config.node, config.tinyport
    if general.server is None:
        raise OperatorError(
            "the node is not told where its cluster is", hint='set tinyport.server = "proxy-host:3080", or --server'
        )
    return NodeSettings(
        data_dir=Path(general.data_dir),
        nodename=nodename(config),
        server=general.server,
        serial=serial(),
        token=general.token,
        token_file=None if general.token_file is None else Path(general.token_file),
        in_memory=node.in_memory,
        device_key=node.device_key,
        ca_pins=general.ca_pins,
        listen=node.listen,
        advertise=node.advertise,
        labels=tuple(labels(config).items()),
        commands=tuple(LabelCommand(c.name, c.command, float(c.period)) for c in node.commands),
        worker_idle=float(node.worker_idle),
        connections_per_worker=node.connections_per_worker,
        memory_limit=_memory_limit(config),
        login_grace=float(node.login_grace),
        client_alive=float(node.client_alive),
        max_startups=node.max_startups,
        max_sessions=node.max_sessions,
        penalties=node.penalties,
        penalty_exempt=node.penalty_exempt,
        banner=node.banner,
        user=node.user,
        pam=node.pam_enabled,
        pam_service=node.pam_service,
        log_level=general.log_level,
        log_format=general.log_format,
    )


def _memory_limit(config: Config) -> int | None:
    """Bytes."""
    if config.node.memory_share is None:
        return config.node.memory_bytes
    return int(memory_size() * config.node.memory_share)

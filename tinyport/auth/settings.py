"""What auth is told by its configuration, checked and frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tinyport.core import tokens
from tinyport.core.errors import ConfigError, TinyportError
from tinyport.core.names import check_cluster, check_label
from tinyport.core.trust import TrustedCluster

#: what a join token may be for
JOIN_KINDS = ("node", "proxy")


@dataclass(frozen=True)
class StaticToken:
    """A join token from the configuration file: no end, any number of uses. ``value`` is ``id.secret``."""

    type: str
    value: str = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    name_template: str = ""
    cidr: tuple[str, ...] = ()
    pending: bool = False


@dataclass(frozen=True)
class PasswordCost:
    """argon2id's parameters. The default is OWASP's smaller one: 19 MiB, two passes; the server may be a Pi."""

    memory_kib: int = 19 * 1024
    passes: int = 2
    #: computed at the same time, so at most this often ``memory_kib``
    parallel: int = 2


@dataclass(frozen=True)
class AuditSinks:
    """Where the audit log goes besides the database."""

    file: Path | None = None
    syslog: bool = False
    syslog_socket: str = "/dev/log"


@dataclass(frozen=True)
class AuthSettings:
    """Everything auth needs to start. ``check`` is called by ``serve``.

    ``listen``: host and port, 0 lets the system choose. ``clock``: Unix seconds; ``monotonic``: seconds that never
    jump.
    """

    data_dir: Path
    cluster_name: str
    listen: tuple[str, int] = ("127.0.0.1", 3025)
    static_tokens: tuple[StaticToken, ...] = ()
    trusted_clusters: tuple[TrustedCluster, ...] = ()
    #: where ``/metrics`` and the like are served, None: nowhere
    diagnostics: tuple[str, int] | None = None
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    log_level: str = "info"
    log_format: str = "text"
    password_cost: PasswordCost = PasswordCost()
    audit_sinks: AuditSinks = AuditSinks()
    #: what the CAs' private keys are encrypted with, if they are
    key_passphrase: str | None = field(default=None, repr=False)
    # A TLS connection in asyncio costs 286 kB: this many come to less than 300 MB, and that only under attack.
    max_connections: int = 1000

    def check(self) -> None:
        """ConfigError with every problem."""
        problems: list[str] = []
        try:
            check_cluster(self.cluster_name)
        except TinyportError as error:
            problems.append(f"auth.cluster_name: {error.message}")
        for index, token in enumerate(self.static_tokens):
            here = f"auth.static_tokens[{index}]"
            if token.type not in JOIN_KINDS:
                problems.append(f"{here}.type: must be one of {', '.join(JOIN_KINDS)}")
            if token.pending and token.type != "node":
                problems.append(f"{here}.pending: only nodes can wait to be accepted")
            try:
                tokens.split(token.value)
            except TinyportError as error:
                # Never the value: this text ends in a log.
                problems.append(f"{here}.value: {error.message}; it must be an id, a dot, and 16 characters or more")
            for key, value in token.labels.items():
                try:
                    check_label(key, value)
                except TinyportError as error:
                    problems.append(f"{here}.labels: {error.message}")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class AuthAddresses:
    """Where auth serves, told to ``ready``."""

    listen: tuple[str, int]
    socket: Path
    ca_pins: tuple[str, ...]

"""What a node needs to be told: checked values that the launcher turns into the monitor's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.names import check_label

MIN_PERIOD = 60.0
MAX_COMMANDS = 32
MAX_LABELS = 64


@dataclass(frozen=True)
class LabelCommand:
    """A label whose value a command prints: run without privileges and without a shell, every ``period`` seconds."""

    name: str
    argv: tuple[str, ...]
    period: float


@dataclass(frozen=True)
class Reread:
    """How the configuration is read again: a program that gets ``task`` (JSON) on its fd 4 and writes its answer to
    fd 3, ``{"configuration": what the launcher makes of it}`` or ``{"problems": [texts], "hint"}``.
    """

    argv: tuple[str, ...]
    task: Mapping[str, object]


@dataclass(frozen=True)
class NodeSettings:
    """Everything about one node. Durations are seconds, sizes bytes.

    ``user`` is the account that link and workers become; None when the node runs unprivileged and serves its own user
    alone. ``penalty_exempt``: networks as (4 or 16 bytes, number, prefix). ``memory_limit`` is an absolute number of
    bytes, None for no limit of our own. ``listen`` may be empty: then the node serves through its tunnel alone.
    ``pam``: None for "where libpam and the service's file are". ``token_file``: to be erased once the node has joined.
    ``serial``: the board's, "" when it has none. ``in_memory``: no key is written to the disk, and each boot is proved
    by ``device_key`` ({"path"} or {"agent", "key"?}), or by a token that names the serial number.
    """

    data_dir: Path
    nodename: str
    server: tuple[str, int]
    serial: str = ""
    token: str | None = None
    token_file: Path | None = None
    in_memory: bool = False
    device_key: Mapping[str, str] | None = None
    ca_pins: tuple[str, ...] = ()
    insecure_no_ca_pin: bool = False
    listen: tuple[tuple[str, int], ...] = (("::", 3022),)
    advertise: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    commands: tuple[LabelCommand, ...] = ()
    worker_idle: float = 60.0
    keeper_idle: float = 120.0
    connections_per_worker: int = 0
    memory_limit: int | None = None
    login_grace: float = 60.0
    client_alive: float = 60.0
    max_startups: int = 100
    max_sessions: int = 512
    penalties: bool = True
    penalty_exempt: tuple[tuple[int, int, int], ...] = ()
    banner: str = ""
    user: str | None = "tinyport"
    worker_user: str = "tinyport-worker"
    pam: bool | None = None
    pam_service: str = "tinyport"
    log_level: str = "info"
    log_format: str = "text"
    ready_file: Path | None = None
    ready_fd: int | None = None
    reread: Reread | None = None

    def check(self) -> None:
        """ConfigError with every problem that is found."""
        problems = []
        for key, value in self.labels:
            try:
                check_label(key, value)
            except PeerError as error:
                problems.append(f"labels: {error.message}")
        if len(self.labels) > MAX_LABELS:
            problems.append(f"labels: {len(self.labels)}, at most {MAX_LABELS} are allowed")
        if len(self.commands) > MAX_COMMANDS:
            problems.append(f"commands: {len(self.commands)}, at most {MAX_COMMANDS} are allowed")
        for command in self.commands:
            try:
                check_label(command.name, "")
            except PeerError as error:
                problems.append(f"commands: {error.message}")
            if not command.argv:
                problems.append(f"commands: {command.name} has no command")
            if command.period < MIN_PERIOD:
                problems.append(
                    f"commands: the period of {command.name} is {command.period:g} s, at least 1m is allowed"
                )
        if self.connections_per_worker < 0:
            problems.append("connections_per_worker: 0 (no limit) or more")
        for name, seconds in (("worker_idle", self.worker_idle), ("keeper_idle", self.keeper_idle)):
            if seconds < 0:
                problems.append(f"{name}: a duration of 0s or more")
        if problems:
            raise ConfigError(problems)

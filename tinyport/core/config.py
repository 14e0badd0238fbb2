"""tinyport.toml: a mapping → frozen values, or one error with every problem in it.

Parsing the file and reading secrets from other files happen outside; ``read_secret`` is how this module asks for them.
Keys are those of the reference in docs/configuration.md; a key that is not known is an error, because a misspelt key
would otherwise silently mean its default.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tinyport.core import tokens
from tinyport.core.durations import parse_duration, parse_size
from tinyport.core.errors import ConfigError, TinyportError
from tinyport.core.names import check_cluster, check_label, parse_address, printable

Address = tuple[str, int]
ReadSecret = Callable[[str], str]

AUTH_PORT, PROXY_PORT, NODE_PORT = 3025, 3080, 3022
MAX_BANNER = 4096
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class General:
    """``[tinyport]``"""

    nodename: str | None = None
    data_dir: str = "/var/lib/tinyport"
    server: Address | None = None
    token: str | None = field(default=None, repr=False)
    ca_pins: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True)
class StaticTokenConfig:
    """One of ``auth.static_tokens``."""

    type: str
    value: str = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuthConfig:
    """``[auth]``"""

    enabled: bool = False
    cluster_name: str | None = None
    listen: Address = ("0.0.0.0", AUTH_PORT)  # noqa: S104 - a server's default, as its documentation says
    static_tokens: tuple[StaticTokenConfig, ...] = ()


@dataclass(frozen=True)
class ProxyConfig:
    """``[proxy]``"""

    enabled: bool = False
    listen: Address = ("0.0.0.0", PROXY_PORT)  # noqa: S104 - the public port
    public_addr: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None


@dataclass(frozen=True)
class CommandConfig:
    """One of ``node.commands``: a label whose value a command prints."""

    name: str
    command: tuple[str, ...]
    period: int


@dataclass(frozen=True)
class NodeConfig:
    """``[node]``. ``memory_share`` is a share of the machine's memory (0 to 1), ``memory_bytes`` a number; one of
    them is None.
    """

    enabled: bool = False
    listen: tuple[Address, ...] = (("::", NODE_PORT),)
    advertise: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[CommandConfig, ...] = ()
    worker_idle: int = 60
    connections_per_worker: int = 0
    memory_share: float | None = 0.25
    memory_bytes: int | None = None
    banner: str = ""
    user: str = "tinyport"


@dataclass(frozen=True)
class Config:
    """A whole tinyport.toml."""

    tinyport: General = General()
    auth: AuthConfig = AuthConfig()
    proxy: ProxyConfig = ProxyConfig()
    node: NodeConfig = NodeConfig()

    @property
    def roles(self) -> tuple[str, ...]:
        """The enabled roles, in the order they start."""
        return tuple(name for name in ("auth", "proxy", "node") if getattr(self, name).enabled)


def parse_config(document: Mapping[str, object], source: str, read_secret: ReadSecret) -> Config:
    """Check a parsed file.

    ``source``: the file's name, for messages. ``read_secret(path)`` returns a file's text and raises TinyportError
    or OSError.
    ConfigError names, for every problem: file, key, what was read, what is allowed.
    """
    reader = _Reader(source, read_secret)
    top = reader.section(document, "", ("tinyport", "auth", "proxy", "node"))
    if "trusted_clusters" in document:
        reader.problem("trusted_clusters", None, "this version cannot join clusters yet; remove the section")
    config = Config(
        tinyport=_general(reader, reader.section(top.get("tinyport"), "tinyport", _GENERAL)),
        auth=_auth(reader, reader.section(top.get("auth"), "auth", _AUTH)),
        proxy=_proxy(reader, reader.section(top.get("proxy"), "proxy", _PROXY)),
        node=_node(reader, reader.section(top.get("node"), "node", _NODE)),
    )
    if config.auth.enabled and config.auth.cluster_name is None:
        reader.problem("auth.cluster_name", None, 'must be given when auth is enabled, for example "farm.example"')
    if (config.proxy.tls_cert is None) != (config.proxy.tls_key is None):
        reader.problem("proxy.tls", None, "cert and key go together")
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


_GENERAL = ("nodename", "data_dir", "server", "token", "ca_pin", "log")
_AUTH = ("enabled", "cluster_name", "listen", "static_tokens")
_PROXY = ("enabled", "listen", "public_addr", "tls")
_NODE = (
    "enabled",
    "listen",
    "advertise",
    "labels",
    "commands",
    "worker_idle",
    "connections_per_worker",
    "memory_limit",
    "banner",
    "user",
)


class _Reader:
    """Takes values out of sections; a wrong one is noted with its place, and the default goes on in its stead."""

    def __init__(self, source: str, read_secret: ReadSecret) -> None:
        self.problems: list[str] = []
        self._source = source
        self._read_secret = read_secret

    def problem(self, place: str, value: object, allowed: str) -> None:
        said = "" if value is None else f" is {printable(repr(value), 80)}:"
        if len(self.problems) < 100:
            self.problems.append(f"{self._source}: {place}{said} {allowed}")

    def section(self, value: object, place: str, keys: Sequence[str]) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.problem(place, value, "must be a section")
            return {}
        for key in value:
            if key in keys or (not place and key == "trusted_clusters"):
                continue
            near = difflib.get_close_matches(str(key), keys, 1)
            name = f"{place}.{printable(str(key), 60)}" if place else printable(str(key), 60)
            advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(keys)}"
            self.problem(name, None, f"is not a known key; {advice}")
        return {key: item for key, item in value.items() if key in keys}

    def text(self, section: Mapping[str, object], place: str, key: str) -> str | None:
        value = section.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or len(value) > 8192:
            self.problem(f"{place}.{key}", value, "must be a text")
            return None
        return value

    def boolean(self, section: Mapping[str, object], place: str, key: str, default: bool) -> bool:
        value = section.get(key, default)
        if not isinstance(value, bool):
            self.problem(f"{place}.{key}", value, "must be true or false")
            return default
        return value

    def whole(self, section: Mapping[str, object], place: str, key: str, default: int, most: int) -> int:
        value = section.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            self.problem(f"{place}.{key}", value, f"must be a whole number from 0 to {most}")
            return default
        return value

    def choice(self, section: Mapping[str, object], place: str, key: str, default: str, allowed: Sequence[str]) -> str:
        value = section.get(key, default)
        if value not in allowed:
            self.problem(f"{place}.{key}", value, f"must be one of {', '.join(allowed)}")
            return default
        return str(value)

    def duration(self, section: Mapping[str, object], place: str, key: str, default: int, least: int = 0) -> int:
        value = section.get(key)
        if value is None:
            return default
        try:
            seconds = parse_duration(value if isinstance(value, str) else "")
        except TinyportError:
            self.problem(f"{place}.{key}", value, 'must be a duration such as "90s", "30m", "12h"')
            return default
        if seconds < least:
            self.problem(f"{place}.{key}", value, f"must be at least {least} s")
            return default
        return seconds

    def address(self, value: object, place: str, default_port: int | None) -> Address | None:
        try:
            return parse_address(value if isinstance(value, str) else "", default_port)
        except TinyportError:
            self.problem(place, value, 'must be an address such as "0.0.0.0:3022" or "[::]:3022"')
            return None

    def texts(self, section: Mapping[str, object], place: str, key: str) -> tuple[str, ...]:
        value = section.get(key, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.problem(f"{place}.{key}", value, "must be a list of texts")
            return ()
        return tuple(value)

    def labels(self, section: Mapping[str, object], place: str) -> dict[str, str]:
        value = section.get("labels", {})
        if not isinstance(value, Mapping):
            self.problem(f"{place}.labels", value, "must be a table of texts")
            return {}
        found: dict[str, str] = {}
        for key, item in value.items():
            try:
                name, text = check_label(key, item)
                found[name] = text
            except TinyportError as error:
                self.problem(f"{place}.labels.{printable(str(key), 60)}", item, error.message)
        return found

    def secret(self, value: object, place: str) -> str | None:
        """A text, or ``{ path = "..." }``. What it says never appears in a message."""
        if value is None:
            return None
        if isinstance(value, str) and value.strip():
            return value.strip()
        path = value.get("path") if isinstance(value, Mapping) and set(value) == {"path"} else None
        if not isinstance(path, str) or not path:
            self.problem(place, None, 'must be a text or { path = "/a/file" }')
            return None
        try:
            return self._read_secret(path).strip()
        except TinyportError as error:
            self.problem(place, None, error.message)
        except OSError as error:
            self.problem(place, None, f"cannot read {printable(path, 120)}: {(error.strerror or str(error)).lower()}")
        return None


def _general(reader: _Reader, section: Mapping[str, object]) -> General:
    log = reader.section(section.get("log"), "tinyport.log", ("level", "format"))
    server = None
    if "server" in section:
        server = reader.address(section["server"], "tinyport.server", PROXY_PORT)
    return General(
        nodename=reader.text(section, "tinyport", "nodename"),
        data_dir=reader.text(section, "tinyport", "data_dir") or General.data_dir,
        server=server,
        token=reader.secret(section.get("token"), "tinyport.token"),
        ca_pins=_pins(reader, section),
        log_level=reader.choice(log, "tinyport.log", "level", "info", ("debug", "info", "warning", "error")),
        log_format=reader.choice(log, "tinyport.log", "format", "text", ("text", "json")),
    )


def is_pin(text: str) -> bool:
    """``sha256:`` and 64 hexadecimal digits."""
    return len(text) == 71 and text.startswith("sha256:") and _HEX.issuperset(text[7:])


def _pins(reader: _Reader, section: Mapping[str, object]) -> tuple[str, ...]:
    value = section.get("ca_pin")
    found: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        text = reader.secret(item, "tinyport.ca_pin")
        # A file may hold several pins, one a line.
        for pin in (text or "").split():
            if is_pin(pin):
                found.append(pin)
            else:
                reader.problem("tinyport.ca_pin", pin, 'must be "sha256:" and 64 hexadecimal digits')
    return tuple(found)


def _auth(reader: _Reader, section: Mapping[str, object]) -> AuthConfig:
    name = reader.text(section, "auth", "cluster_name")
    if name is not None:
        try:
            check_cluster(name)
        except TinyportError as error:
            reader.problem("auth.cluster_name", name, error.message)
    listen = AuthConfig.listen
    if "listen" in section:
        listen = reader.address(section["listen"], "auth.listen", AUTH_PORT) or listen
    static = section.get("static_tokens", [])
    if not isinstance(static, list):
        reader.problem("auth.static_tokens", None, "must be a list of tables")
        static = []
    return AuthConfig(
        enabled=reader.boolean(section, "auth", "enabled", "cluster_name" in section),
        cluster_name=name,
        listen=listen,
        static_tokens=tuple(
            token for index, item in enumerate(static) if (token := _static_token(reader, item, index)) is not None
        ),
    )


def _static_token(reader: _Reader, item: object, index: int) -> StaticTokenConfig | None:
    place = f"auth.static_tokens[{index}]"
    table = reader.section(item, place, ("type", "value", "labels"))
    value = reader.secret(table.get("value"), f"{place}.value")
    if value is None:
        reader.problem(f"{place}.value", None, "must be given")
        return None
    try:
        tokens.split(value)
    except TinyportError:
        reader.problem(f"{place}.value", None, "must be an id, a dot, and a secret of 16 characters or more")
    return StaticTokenConfig(
        type=reader.choice(table, place, "type", "node", ("node", "proxy")),
        value=value,
        labels=reader.labels(table, place),
    )


def _proxy(reader: _Reader, section: Mapping[str, object]) -> ProxyConfig:
    listen = ProxyConfig.listen
    if "listen" in section:
        listen = reader.address(section["listen"], "proxy.listen", PROXY_PORT) or listen
    public = reader.texts(section, "proxy", "public_addr")
    for item in public:
        reader.address(item, "proxy.public_addr", PROXY_PORT)
    tls = reader.section(section.get("tls"), "proxy.tls", ("cert", "key"))
    return ProxyConfig(
        enabled=reader.boolean(section, "proxy", "enabled", bool(section)),
        listen=listen,
        public_addr=public,
        tls_cert=reader.text(tls, "proxy.tls", "cert"),
        tls_key=reader.text(tls, "proxy.tls", "key"),
    )


def _node(reader: _Reader, section: Mapping[str, object]) -> NodeConfig:
    listen = NodeConfig.listen
    if "listen" in section:
        found = [reader.address(item, "node.listen", NODE_PORT) for item in reader.texts(section, "node", "listen")]
        listen = tuple(address for address in found if address is not None)
    advertise = reader.texts(section, "node", "advertise")
    for item in advertise:
        reader.address(item, "node.advertise", NODE_PORT)
    banner = section.get("banner", "")
    if not isinstance(banner, str) or len(banner) > MAX_BANNER:
        reader.problem("node.banner", None, f"must be a text of at most {MAX_BANNER} characters")
        banner = ""
    share, size = _memory(reader, section.get("memory_limit"))
    commands = section.get("commands", [])
    if not isinstance(commands, list):
        reader.problem("node.commands", commands, "must be a list of tables")
        commands = []
    return NodeConfig(
        enabled=reader.boolean(section, "node", "enabled", bool(section)),
        listen=listen,
        advertise=advertise,
        labels=reader.labels(section, "node"),
        commands=tuple(_command(reader, item, index) for index, item in enumerate(commands)),
        worker_idle=reader.duration(section, "node", "worker_idle", NodeConfig.worker_idle),
        connections_per_worker=reader.whole(section, "node", "connections_per_worker", 0, 10_000),
        memory_share=share,
        memory_bytes=size,
        banner=banner,
        user=reader.text(section, "node", "user") or NodeConfig.user,
    )


def _memory(reader: _Reader, value: object) -> tuple[float | None, int | None]:
    if value is None:
        return NodeConfig.memory_share, None
    if isinstance(value, str) and value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit():
        if len(value) <= 4 and 1 <= int(value[:-1]) <= 100:
            return int(value[:-1]) / 100, None
    elif isinstance(value, str):
        with contextlib.suppress(TinyportError):  # said below, with both forms
            return None, parse_size(value)
    reader.problem("node.memory_limit", value, 'must be a share such as "25%" or a size such as "64MB"')
    return NodeConfig.memory_share, None


def _command(reader: _Reader, item: object, index: int) -> CommandConfig:
    place = f"node.commands[{index}]"
    table = reader.section(item, place, ("name", "command", "period"))
    name = reader.text(table, place, "name") or ""
    command = reader.texts(table, place, "command")
    if not name or not command:
        reader.problem(place, None, "needs a name and a command (a list: program and arguments)")
    return CommandConfig(name=name, command=command, period=reader.duration(table, place, "period", 300, least=60))

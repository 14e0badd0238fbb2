"""tinyport.toml: a mapping → frozen values, or one error with every problem in it.

Parsing the file and reading secrets from other files happen outside; ``read_secret`` is how this module asks for them.
Keys are those of the reference in docs/configuration.md; a key that is not known is an error, because a misspelt key
would otherwise silently mean its default.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyport.core import tokens
from tinyport.core.config_reader import Address, ReadSecret, SettingsReader
from tinyport.core.config_trust import read_trusted_clusters
from tinyport.core.durations import parse_size
from tinyport.core.errors import ConfigError, TinyportError
from tinyport.core.forwarded import FORWARDED, X_FORWARDED_FOR, Network
from tinyport.core.names import check_cluster, check_label, check_node, format_address, is_pin
from tinyport.core.trust import TrustedCluster

AUTH_PORT, PROXY_PORT, NODE_PORT, DIAG_PORT = 3025, 3080, 3022, 3000
MAX_BANNER = 4096
#: 127.0.0.0/8 and ::1: whatever forwards connections on this machine itself is one source for many people
LOOPBACK: tuple[Network, ...] = ((4, 127 << 24, 8), (16, 1, 128))


@dataclass(frozen=True)
class General:
    """``[tinyport]``"""

    nodename: str | None = None
    data_dir: str = "/var/lib/tinyport"
    server: Address | None = None
    token: str | None = field(default=None, repr=False)
    #: the token's file, when it is to be erased after joining
    token_file: str | None = None
    ca_pins: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "text"
    #: where auth or proxy serve what monitoring asks
    diag_addr: Address | None = None


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
    audit_file: str | None = None
    audit_syslog: bool = False
    key_passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ProxyConfig:
    """``[proxy]``"""

    enabled: bool = False
    listen: Address = ("0.0.0.0", PROXY_PORT)  # noqa: S104 - the public port
    public_addr: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    proxy_protocol_from: tuple[Network, ...] = ()
    forwarded_from: tuple[Network, ...] = ()
    forwarded_header: str = X_FORWARDED_FOR


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
    #: ``identity = "memory"``
    in_memory: bool = False
    #: {"path"} or {"agent", "key"?}: by what such a node is known at each boot
    device_key: Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[CommandConfig, ...] = ()
    worker_idle: int = 60
    connections_per_worker: int = 0
    memory_share: float | None = 0.25
    memory_bytes: int | None = None
    login_grace: int = 60
    client_alive: int = 60
    max_startups: int = 100
    max_sessions: int = 512
    penalties: bool = True
    penalty_exempt: tuple[Network, ...] = LOOPBACK
    banner: str = ""
    user: str = "tinyport"
    #: None: where this machine has libpam and a service file
    pam_enabled: bool | None = None
    pam_service: str = "tinyport"


@dataclass(frozen=True)
class Config:
    """A whole tinyport.toml."""

    tinyport: General = General()
    auth: AuthConfig = AuthConfig()
    proxy: ProxyConfig = ProxyConfig()
    node: NodeConfig = NodeConfig()
    #: ``[[trusted_clusters]]``
    trusted_clusters: tuple[TrustedCluster, ...] = ()

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
    reader = SettingsReader(source, read_secret)
    top = reader.section(document, "", (*SECTIONS, "trusted_clusters"))
    config = Config(
        tinyport=_general(reader, reader.section(top.get("tinyport"), "tinyport", _GENERAL)),
        auth=_auth(reader, reader.section(top.get("auth"), "auth", _AUTH)),
        proxy=_proxy(reader, reader.section(top.get("proxy"), "proxy", _PROXY)),
        node=_node(reader, reader.section(top.get("node"), "node", _NODE)),
        trusted_clusters=read_trusted_clusters(reader, top.get("trusted_clusters")),
    )
    if config.trusted_clusters and not config.auth.enabled:
        reader.problem("trusted_clusters", None, "is auth's to say: it needs an [auth] section")
    if config.auth.enabled and config.auth.cluster_name is None:
        reader.problem("auth.cluster_name", None, 'must be given when auth is enabled, for example "farm.example"')
    if (config.proxy.tls_cert is None) != (config.proxy.tls_key is None):
        reader.problem("proxy.tls", None, "cert and key go together")
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


_GENERAL = ("nodename", "data_dir", "server", "token", "ca_pin", "log", "diag_addr")
_AUTH = ("enabled", "cluster_name", "listen", "static_tokens", "audit", "key_passphrase")
_PROXY = ("enabled", "listen", "public_addr", "tls", "proxy_protocol_from", "forwarded")
_NODE = (
    "enabled",
    "listen",
    "advertise",
    "identity",
    "device_key",
    "labels",
    "commands",
    "worker_idle",
    "connections_per_worker",
    "memory_limit",
    "login_grace",
    "client_alive",
    "max_startups",
    "max_sessions",
    "penalties",
    "banner",
    "pam",
    "user",
)
#: section → its keys
SECTIONS = {"tinyport": _GENERAL, "auth": _AUTH, "proxy": _PROXY, "node": _NODE}
_PAM = ("enabled", "service")
_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def _general(reader: SettingsReader, section: Mapping[str, object]) -> General:
    log = reader.section(section.get("log"), "tinyport.log", ("level", "format"))
    server = None
    if "server" in section:
        server = reader.address(section["server"], "tinyport.server", PROXY_PORT)
    diagnostics = None
    if "diag_addr" in section:
        diagnostics = reader.address(section["diag_addr"], "tinyport.diag_addr", DIAG_PORT)
    token, token_file = _token(reader, section.get("token"))
    return General(
        nodename=_nodename(reader, section),
        data_dir=reader.path(section, "tinyport", "data_dir") or General.data_dir,
        server=server,
        token=token,
        token_file=token_file,
        ca_pins=_pins(reader, section),
        log_level=reader.choice(log, "tinyport.log", "level", "info", _LEVELS),
        log_format=reader.choice(log, "tinyport.log", "format", "text", _FORMATS),
        diag_addr=diagnostics,
    )


def _token(reader: SettingsReader, value: object) -> tuple[str | None, str | None]:
    """(token, file to erase once it has been used). Such a file is not there any more at the next start."""
    if not isinstance(value, Mapping) or "erase" not in value:
        return reader.secret(value, "tinyport.token"), None
    table = reader.section(value, "tinyport.token", ("path", "erase"))
    erase = reader.boolean(table, "tinyport.token", "erase", False)
    place = {"path": table.get("path")}
    token = reader.secret(place, "tinyport.token", absent=erase)
    return token, str(place["path"]) if erase else None


def _nodename(reader: SettingsReader, section: Mapping[str, object]) -> str | None:
    """A name, or a template of one: ``{serial}`` and ``{mac}`` are filled in where the node starts."""
    template = reader.text(section, "tinyport", "nodename")
    if template is None:
        return None
    try:
        check_node(template.replace("{serial}", "0").replace("{mac}", "0"))
    except TinyportError as error:
        reader.problem(
            "tinyport.nodename", template, f"{error.hint or error.message}; templates are {{serial}}, {{mac}}"
        )
        return None
    return template


def _pins(reader: SettingsReader, section: Mapping[str, object]) -> tuple[str, ...]:
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


def _auth(reader: SettingsReader, section: Mapping[str, object]) -> AuthConfig:
    name = reader.text(section, "auth", "cluster_name")
    if name is not None:
        try:
            check_cluster(name)
        except TinyportError as error:
            reader.problem("auth.cluster_name", name, error.hint or error.message)
    listen = AuthConfig.listen
    if "listen" in section:
        listen = reader.address(section["listen"], "auth.listen", AUTH_PORT) or listen
    static = section.get("static_tokens", [])
    if not isinstance(static, list):
        reader.problem("auth.static_tokens", None, "must be a list of tables")
        static = []
    audit = reader.section(section.get("audit"), "auth.audit", ("file", "syslog"))
    audit_file = reader.text(audit, "auth.audit", "file")
    if audit_file is not None and not audit_file.startswith("/"):
        reader.problem("auth.audit.file", audit_file, "must be an absolute path")
    return AuthConfig(
        enabled=reader.boolean(section, "auth", "enabled", "cluster_name" in section),
        cluster_name=name,
        listen=listen,
        audit_file=audit_file,
        audit_syslog=reader.boolean(audit, "auth.audit", "syslog", False),
        key_passphrase=_passphrase(reader, section.get("key_passphrase")),
        static_tokens=tuple(
            token for index, item in enumerate(static) if (token := _static_token(reader, item, index)) is not None
        ),
    )


def _passphrase(reader: SettingsReader, value: object) -> str | None:
    if isinstance(value, str):
        # Beside what it protects, in a file that is copied with it, it would protect nothing.
        reader.problem("auth.key_passphrase", None, 'must be { path = "/a/file" }')
        return None
    return reader.secret(value, "auth.key_passphrase")


def _static_token(reader: SettingsReader, item: object, index: int) -> StaticTokenConfig | None:
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


def _proxy(reader: SettingsReader, section: Mapping[str, object]) -> ProxyConfig:
    listen = ProxyConfig.listen
    if "listen" in section:
        listen = reader.address(section["listen"], "proxy.listen", PROXY_PORT) or listen
    public = _addresses(reader, section, "proxy", "public_addr", PROXY_PORT)
    tls = reader.section(section.get("tls"), "proxy.tls", ("cert", "key"))
    forwarded = reader.section(section.get("forwarded"), "proxy.forwarded", ("from", "header"))
    return ProxyConfig(
        enabled=reader.boolean(section, "proxy", "enabled", bool(section)),
        listen=listen,
        public_addr=tuple(format_address(*address) for address in public),
        tls_cert=reader.path(tls, "proxy.tls", "cert"),
        tls_key=reader.path(tls, "proxy.tls", "key"),
        proxy_protocol_from=_networks(reader, section, "proxy", "proxy_protocol_from"),
        forwarded_from=_networks(reader, forwarded, "proxy.forwarded", "from"),
        forwarded_header=reader.choice(
            forwarded, "proxy.forwarded", "header", X_FORWARDED_FOR, (X_FORWARDED_FOR, FORWARDED)
        ),
    )


def _addresses(
    reader: SettingsReader, section: Mapping[str, object], place: str, key: str, default_port: int
) -> tuple[Address, ...]:
    found = [reader.address(item, f"{place}.{key}", default_port) for item in reader.texts(section, place, key)]
    return tuple(address for address in found if address is not None)


def _node(reader: SettingsReader, section: Mapping[str, object]) -> NodeConfig:
    listen = NodeConfig.listen
    if "listen" in section:
        listen = _addresses(reader, section, "node", "listen", NODE_PORT)
    advertise = _addresses(reader, section, "node", "advertise", NODE_PORT)
    in_memory = reader.choice(section, "node", "identity", "disk", ("disk", "memory")) == "memory"
    device_key = _device_key(reader, section.get("device_key"))
    if device_key is not None and not in_memory:
        reader.problem("node.device_key", None, 'is for identity = "memory"')
    pam_enabled, pam_service = _pam(reader, section)
    banner = section.get("banner", "")
    if not isinstance(banner, str) or len(banner) > MAX_BANNER:
        reader.problem("node.banner", None, f"must be a text of at most {MAX_BANNER} characters")
        banner = ""
    penalties = reader.section(section.get("penalties"), "node.penalties", ("enabled", "exempt"))
    share, size = _memory(reader, section.get("memory_limit"))
    commands = section.get("commands", [])
    if not isinstance(commands, list):
        reader.problem("node.commands", commands, "must be a list of tables")
        commands = []
    return NodeConfig(
        enabled=reader.boolean(section, "node", "enabled", bool(section)),
        listen=listen,
        advertise=tuple(format_address(*address) for address in advertise),
        in_memory=in_memory,
        device_key=device_key,
        labels=reader.labels(section, "node"),
        commands=tuple(_command(reader, item, index) for index, item in enumerate(commands)),
        worker_idle=reader.duration(section, "node", "worker_idle", NodeConfig.worker_idle),
        connections_per_worker=reader.whole(section, "node", "connections_per_worker", 0, 10_000),
        memory_share=share,
        memory_bytes=size,
        login_grace=reader.duration(section, "node", "login_grace", NodeConfig.login_grace, least=5),
        client_alive=reader.duration(section, "node", "client_alive", NodeConfig.client_alive),
        max_startups=reader.whole(section, "node", "max_startups", NodeConfig.max_startups, 10_000, least=2),
        max_sessions=reader.whole(section, "node", "max_sessions", NodeConfig.max_sessions, 1_000, least=1),
        penalties=reader.boolean(penalties, "node.penalties", "enabled", True),
        penalty_exempt=_networks(reader, penalties, "node.penalties", "exempt", LOOPBACK),
        banner=banner,
        user=reader.text(section, "node", "user") or NodeConfig.user,
        pam_enabled=pam_enabled,
        pam_service=pam_service,
    )


def _device_key(reader: SettingsReader, value: object) -> Mapping[str, str] | None:
    """Where it is. It is read where it is used: a token or stick may come later than the configuration."""
    if value is None:
        return None
    table = reader.section(value, "node.device_key", ("path", "agent", "key"))
    found = {key: text for key in table if (text := reader.path(table, "node.device_key", key)) is not None}
    if ("path" in found) == ("agent" in found) or ("key" in found and "agent" not in found):
        reader.problem(
            "node.device_key", None, 'must be { path = "/a/file" } or { agent = "/a/socket", key = "ssh-... AAAA..." }'
        )
        return None
    return found


def _pam(reader: SettingsReader, section: Mapping[str, object]) -> tuple[bool | None, str]:
    table = reader.section(section.get("pam"), "node.pam", _PAM)
    enabled = reader.boolean(table, "node.pam", "enabled", False) if "enabled" in table else None
    service = reader.text(table, "node.pam", "service") or NodeConfig.pam_service
    if len(service) > 32 or not service.isascii() or not service.replace("-", "a").replace("_", "a").isalnum():
        reader.problem("node.pam.service", service, "must be the name of a file in /etc/pam.d")
    return enabled, service


def _networks(
    reader: SettingsReader, table: Mapping[str, object], place: str, key: str, default: tuple[Network, ...] = ()
) -> tuple[Network, ...]:
    if key not in table:
        return default
    found = []
    for text in reader.texts(table, place, key):
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            reader.problem(f"{place}.{key}", text, 'must be networks such as "192.0.2.0/24" or "2001:db8::/32"')
            continue
        found.append((network.max_prefixlen // 8, int(network.network_address), network.prefixlen))
    return tuple(found)


def _memory(reader: SettingsReader, value: object) -> tuple[float | None, int | None]:
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


def _command(reader: SettingsReader, item: object, index: int) -> CommandConfig:
    place = f"node.commands[{index}]"
    table = reader.section(item, place, ("name", "command", "period"))
    name = reader.text(table, place, "name") or ""
    command = reader.texts(table, place, "command")
    if not name or not command:
        reader.problem(place, None, "needs a name and a command (a list: program and arguments)")
    else:
        try:
            check_label(name, "")
        except TinyportError as error:
            reader.problem(f"{place}.name", name, error.hint or error.message)
    return CommandConfig(name=name, command=command, period=reader.duration(table, place, "period", 300, least=60))

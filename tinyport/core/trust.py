"""Trusted clusters: whose users may come from elsewhere, and which of our roles they have here.

A cluster is known by the key of its user CA. Its users are ``user@cluster``; what its certificates say of logins,
traits and second factors counts for nothing here. Role names that no pattern maps grant nothing, and without a map
nobody comes in. See docs/trusted-clusters.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

from tinyport.core.certificate import fingerprint, key_type_of, parse_public_line, public_line
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.names import check_cluster, check_role, format_address, is_pin, parse_address, printable

T = TypeVar("T")

KEYS = ("name", "enabled", "user_ca", "host_ca", "role_map", "public_addr", "server", "ca_pin")
MOST_CLUSTERS = 64
#: two, while the other cluster rotates; one more than that for a rotation that was begun anew
MOST_KEYS = 3
#: proxies of one cluster that are dialled
MOST_SERVERS = 8
MOST_MAPPINGS = 64
MOST_LOCAL = 16
MAX_PATTERN = 128
#: roles of one certificate that are looked at
MOST_ROLES = 64
# Role names of strangers meet these patterns. With three repetitions over 64 characters the worst case is some 40,000
# steps; nested repetitions, which are the exponential ones, cannot be written at all.
MOST_REPETITIONS = 3
_PROXY_PORT = 3080
_NAME = r"(?:[A-Za-z0-9_-]|\\[.-])"
_BODY = re.compile(rf"(?:{_NAME}|\.[*+]?|\((?:\.[*+]|{_NAME}+(?:\|{_NAME}+)*)\))*")
_REFERENCE = re.compile(r"\$([1-9])")


@lru_cache(maxsize=1024)
def compile_remote(pattern: str) -> re.Pattern[str]:
    """``remote`` of a mapping: a role's name, or ``^...$`` of name characters, ``.``, ``.*``, ``.+`` and groups
    ``(.*)``, ``(dev|ops)``. It is matched against whole names only. PeerError for anything else.
    """
    if not (len(pattern) > 1 and pattern.startswith("^") and pattern.endswith("$")):
        return re.compile(re.escape(check_role(pattern)))
    body = pattern[1:-1]
    repetitions = body.count("*") + body.count("+")
    if len(pattern) > MAX_PATTERN or repetitions > MOST_REPETITIONS or not _BODY.fullmatch(body):
        raise PeerError(
            f"{printable(pattern, 80)!r} is no pattern",
            hint=f"a role's name, or ^...$ with letters, digits, . .* .+ (.*) (dev|ops); at most {MOST_REPETITIONS} "
            "repetitions",
        )
    return re.compile(body)


@dataclass(frozen=True)
class RoleMapping:
    """Whoever has a role there that ``remote`` matches has ``local`` here, ``$1`` being its first group."""

    remote: str
    local: tuple[str, ...]

    def roles(self, role: str) -> list[str]:
        """What a role of theirs becomes; [] when it is not meant. A name that ``$1`` makes and no role can have is
        left out."""
        found = compile_remote(self.remote).fullmatch(role)
        if found is None:
            return []
        names = []
        for local in self.local:
            name = _REFERENCE.sub(lambda reference: found[int(reference[1])] or "", local)
            try:
                names.append(check_role(name))
            except PeerError:
                continue
        return names


@dataclass(frozen=True)
class TrustedCluster:
    """One cluster that is trusted, checked. Keys are SSH blobs of CA keys. ``name`` is what it calls itself."""

    name: str
    enabled: bool = True
    user_cas: tuple[bytes, ...] = ()
    host_cas: tuple[bytes, ...] = ()
    role_map: tuple[RoleMapping, ...] = ()
    #: its proxy, "host:port", for our people who go there; "": they go through the tunnel that it dials to us
    public_addr: str = ""
    #: its proxies, "host:port", to which ours dial tunnels by which its people come here; (): they come by themselves
    servers: tuple[str, ...] = ()
    #: "sha256:..." of its TLS CA, by which those proxies are known
    ca_pins: tuple[str, ...] = ()

    def local_roles(self, remote: Iterable[str]) -> tuple[str, ...]:
        """Their roles → ours, sorted, each once. () grants nothing."""
        if not self.enabled:
            return ()
        return tuple(
            sorted(
                {
                    name
                    for role in list(remote)[:MOST_ROLES]
                    for mapping in self.role_map
                    for name in mapping.roles(role)
                }
            )
        )

    @cached_property
    def document(self) -> dict[str, object]:
        """As the policy and ``tctl get`` have it; ``parse_trusted_cluster`` reads it."""
        return {
            "name": self.name,
            "enabled": self.enabled,
            "user_ca": [public_line(blob) for blob in self.user_cas],
            "host_ca": [public_line(blob) for blob in self.host_cas],
            "role_map": [{"remote": one.remote, "local": list(one.local)} for one in self.role_map],
            **({"public_addr": self.public_addr} if self.public_addr else {}),
            **({"server": list(self.servers), "ca_pin": list(self.ca_pins)} if self.servers else {}),
        }

    @property
    def by_tunnel(self) -> bool:
        """Do our people go there through a tunnel that its proxy dials to ours?"""
        return self.enabled and bool(self.host_cas) and not self.public_addr

    @property
    def fingerprints(self) -> list[str]:
        return [fingerprint(blob) for blob in (*self.user_cas, *self.host_cas)]


def parse_trusted_cluster(document: object) -> TrustedCluster:
    """A resource, or an entry of the policy → TrustedCluster. ConfigError with every problem."""
    if not isinstance(document, Mapping):
        raise ConfigError(["a trusted cluster is a table"])
    problems: list[str] = [
        f"{printable(str(key), 40)}: unknown, allowed are {', '.join(KEYS)}" for key in document if key not in KEYS
    ]

    def read(key: str, parse: Callable[[object], T], default: T) -> T:
        if key not in document:
            return default
        try:
            return parse(document[key])
        except PeerError as error:
            problems.append(f"{key}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            return default

    name = read("name", check_cluster, "")
    if not name and "name" not in document:
        problems.append("name: must be given")
    enabled = read("enabled", _boolean, True)
    none: tuple[bytes, ...] = ()
    nobody: tuple[RoleMapping, ...] = ()
    user_cas = read("user_ca", _keys, none)
    host_cas = read("host_ca", _keys, none)
    role_map = read("role_map", _role_map, nobody)
    public_addr = read("public_addr", _address, "")
    nothing: tuple[str, ...] = ()
    servers = read("server", _addresses, nothing)
    ca_pins = read("ca_pin", _pins, nothing)
    if not user_cas and not host_cas and not problems:
        problems.append("user_ca: must be given, as tctl auth export --type user prints it there")
    if role_map and not user_cas and not problems:
        problems.append("role_map: maps nobody without user_ca")
    if public_addr and not host_cas and not problems:
        problems.append("host_ca: must be given beside public_addr, or nobody could tell that proxy from another")
    if servers and not ca_pins and not problems:
        problems.append("ca_pin: must be given beside server, or anybody on the way could be that proxy")
    if ca_pins and not servers and not problems:
        problems.append("server: must be given beside ca_pin, which is its proxy's")
    if servers and not user_cas and not problems:
        problems.append("user_ca: must be given beside server; without it nobody could come through that tunnel")
    if set(user_cas) & set(host_cas):
        problems.append("user_ca, host_ca: one key cannot be both")
    if problems:
        raise ConfigError(problems)
    return TrustedCluster(name, enabled, user_cas, host_cas, role_map, public_addr, servers, ca_pins)


def by_user_ca(clusters: Iterable[TrustedCluster], own: Iterable[bytes]) -> dict[bytes, TrustedCluster]:
    """Which cluster a user CA stands for. A key of our ``own`` stands for us alone, one that two clusters claim for
    nobody."""
    found: dict[bytes, TrustedCluster] = {}
    claimed = set(own)
    for cluster in clusters:
        for key in cluster.user_cas if cluster.enabled else ():
            if key in claimed:
                found.pop(key, None)
            else:
                claimed.add(key)
                found[key] = cluster
    return found


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise PeerError("must be true or false")
    return value


def _address(value: object) -> str:
    if not isinstance(value, str) or len(value) > 300:
        raise PeerError("must be a host and a port")
    return format_address(*parse_address(value, _PROXY_PORT))


def _addresses(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not 0 < len(items) <= MOST_SERVERS:
        raise PeerError(f"must be a host and a port, or a list of at most {MOST_SERVERS}")
    return tuple(dict.fromkeys(_address(item) for item in items))


def _pins(value: object) -> tuple[str, ...]:
    pins = [value] if isinstance(value, str) else value
    if not isinstance(pins, (list, tuple)) or not 0 < len(pins) <= MOST_KEYS:
        raise PeerError(f'must be "sha256:...", or a list of at most {MOST_KEYS} of them')
    found = [str(pin).strip().lower() for pin in pins]
    for pin in found:
        if not is_pin(pin):
            raise PeerError(f"{printable(pin, 80)!r} is not a pin", hint='"sha256:" and 64 hexadecimal digits')
    return tuple(dict.fromkeys(found))


def _keys(value: object) -> tuple[bytes, ...]:
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        raise PeerError("must be a public key line, or a list of them")
    # `tctl auth export` prints a line for each key while a CA rotates.
    lines = [line for text in lines for line in text.splitlines() if line.strip()]
    blobs = tuple(dict.fromkeys(parse_public_line(line) for line in lines))
    if len(blobs) > MOST_KEYS:
        raise PeerError(f"{len(blobs)} keys, at most {MOST_KEYS} are allowed")
    for blob in blobs:
        if key_type_of(blob) != "ssh-ed25519":
            raise PeerError(f"a CA key of type {printable(key_type_of(blob), 60)}; tinyport's are ssh-ed25519")
    return blobs


def _role_map(value: object) -> tuple[RoleMapping, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_MAPPINGS:
        raise PeerError(f"must be a list of tables, at most {MOST_MAPPINGS}")
    return tuple(_mapping(item) for item in value)


def _mapping(item: object) -> RoleMapping:
    example = 'a mapping is { remote = "^(.*)-admin$", local = ["$1-guest"] }'
    if not isinstance(item, Mapping) or set(item) != {"remote", "local"}:
        raise PeerError(example)
    remote, local = item["remote"], item["local"]
    if not isinstance(remote, str) or not isinstance(local, (list, tuple)) or not 1 <= len(local) <= MOST_LOCAL:
        raise PeerError(example)
    groups = compile_remote(remote).groups
    for name in local:
        if not isinstance(name, str):
            raise PeerError(example)
        asked = [int(number) for number in _REFERENCE.findall(name)]
        if any(number > groups for number in asked):
            raise PeerError(f"{printable(name, 60)!r} names a group that {printable(remote, 60)!r} does not have")
        check_role(_REFERENCE.sub("x", name))
    return RoleMapping(remote, tuple(local))

"""What the operator decided about this proxy: checked values, ready to be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyport.core.forwarded import X_FORWARDED_FOR, Network
from tinyport.core.names import format_address

Address = tuple[str, int]


@dataclass(frozen=True)
class ProxySettings:
    """A proxy's settings. Whoever makes them (the supervisor, from tinyport.toml) has checked them."""

    #: the service's folder; ours is ``proxy`` in it
    data_dir: Path
    listen: Address = ("0.0.0.0", 3080)  # noqa: S104  the public port
    #: host:port under which people and nodes reach it; the first is what links are made of
    public_addr: tuple[str, ...] = ()
    auth_address: Address = ("127.0.0.1", 3025)
    #: for joining; not needed once there is an identity
    token: str = ""
    ca_pins: tuple[str, ...] = ()
    insecure_no_ca_pin: bool = False
    #: PEM files for browsers; None: a certificate of our own making
    web_cert: Path | None = None
    web_key: Path | None = None
    nodename: str = "proxy"
    #: where ``/metrics`` and the like are served, None: nowhere
    diagnostics: Address | None = None
    log_level: str = "info"
    log_format: str = "text"
    #: seconds between a node's beats
    beat: float = 50.0
    #: connections at once, in all; each costs 10 to 60 kB and a file descriptor
    max_connections: int = 20_000
    #: connections that have not said who they are yet, in all and from one source (an IPv6 /64 is one source)
    max_strangers: int = 2_000
    max_strangers_per_source: int = 256
    #: balancers that say with the PROXY protocol whose connections they pass on
    proxy_protocol_from: tuple[Network, ...] = ()
    #: balancers that say in ``forwarded_header`` whose requests they pass on
    forwarded_from: tuple[Network, ...] = ()
    forwarded_header: str = X_FORWARDED_FOR

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others find this proxy: as configured, else where it listens if that says anything."""
        host, port = self.listen
        if self.public_addr or host in ("0.0.0.0", "::", "") or port == 0:  # noqa: S104  compared, not bound
            return self.public_addr
        return (format_address(host, port),)

    @property
    def folder(self) -> Path:
        return self.data_dir / "proxy"

    @property
    def identity_path(self) -> Path:
        return self.folder / "identity.json"

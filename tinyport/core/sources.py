"""What counts as one source of connections. Light: link loads it, so nothing is imported."""

from __future__ import annotations


def source_of(address: str) -> str:
    """An IPv4 address (in IPv6, too) is a source; of IPv6 the /64, as a host may use any address of its own.

    As sshd_config(5) PerSourceNetBlockSize 32:64. ``address``: as ``inet_ntop`` writes it; any other text is a source
    by itself.
    """
    host = address.partition("%")[0].lower()
    if ":" not in host:
        return host
    if "." in host:
        return host.rpartition(":")[2]
    return ":".join(_groups(host)[:4]) + "::/64"


def network_of(address: str) -> str:
    """What one who has more than one address is likely to have them in: the /24 of IPv4, the /48 of IPv6."""
    source = source_of(address)
    if source.endswith("::/64"):
        return ":".join(_groups(address.partition("%")[0].lower())[:3]) + "::/48"
    head, dot, _ = source.rpartition(".")
    return f"{head}.0/24" if dot and source.count(".") == 3 else source


def _groups(host: str) -> list[str]:
    """The eight of an IPv6 address, without leading zeros."""
    head, gap, tail = host.partition("::")
    groups = head.split(":") if head else []
    if gap:
        rest = tail.split(":") if tail else []
        groups += ["0"] * (8 - len(groups) - len(rest)) + rest
    return [group.lstrip("0") or "0" for group in groups]

"""Other clusters that one's own knows: which there are, and how OpenSSH gets there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyport.client.ssh_config import file_word
from tinyport.client.whoami import auth_client
from tinyport.core.certificate import parse_public_line, public_line
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.names import check_cluster, parse_address, printable
from tinyport.host.files import write_private
from tinyport.host.profile import Profile
from tinyport.host.user_identity import UserIdentity


@dataclass(frozen=True)
class OtherCluster:
    """``host_cas``: public lines; ``proxy``: "host:port", or "" where the way is a tunnel to our own proxy; ``online``:
    whether that tunnel is there (None: nobody here can know)."""

    name: str
    proxy: str
    host_cas: tuple[str, ...]
    online: bool | None = None


def other_clusters(identity: UserIdentity) -> list[OtherCluster]:
    """What auth says that there is. An auth of an earlier version knows of none."""
    with auth_client(identity) as client:
        try:
            found = client.request("GET", "/v1/clusters").get("clusters")
        except OperatorError as error:
            if error.code == "not_found":
                return []
            raise
    return [_read(item) for item in found] if isinstance(found, list) else []


def _read(item: object) -> OtherCluster:
    table = item if isinstance(item, dict) else {}
    keys = table.get("host_ca")
    if not isinstance(keys, list) or not all(isinstance(line, str) for line in keys):
        raise PeerError("auth's list of clusters is malformed")
    address, online = str(table.get("public_addr") or ""), table.get("online")
    if address:
        parse_address(address)
    # Made anew from what was read: these lines go into files that OpenSSH believes.
    return OtherCluster(
        check_cluster(table.get("name")),
        address,
        tuple(public_line(parse_public_line(line)) for line in keys),
        online if isinstance(online, bool) else None,
    )


def named(identity: UserIdentity, name: str) -> OtherCluster:
    """OperatorError ``not_found`` when there is none of that name."""
    for cluster in other_clusters(identity):
        if cluster.name == name:
            return cluster
    raise OperatorError(
        f"{identity.cluster} knows no cluster {printable(name, 100)}",
        hint='"tsh clusters" lists them',
        code="not_found",
    )


def openssh_block(profile: Profile, cluster: OtherCluster, folder: Path) -> list[str]:
    """The ssh_config(5) block with which plain ``ssh LOGIN@NODE.CLUSTER`` goes through that cluster's proxy. Its known
    hosts are written to a file in ``folder``."""
    known = folder / f"known_hosts.{cluster.name}"
    write_private(known, "".join(f"@cert-authority *.{cluster.name} {line}\n" for line in cluster.host_cas).encode())
    common = [
        f"    UserKnownHostsFile {file_word(known)}",
        "    GlobalKnownHostsFile /dev/null",
        "    StrictHostKeyChecking yes",
        f"    IdentityFile {file_word(profile.key_file)}",
        f"    CertificateFile {file_word(profile.certificate_file)}",
        "    IdentitiesOnly yes",
    ]
    if cluster.proxy:
        host, port = parse_address(cluster.proxy)
        way = [f"    HostName {host}", f"    Port {port}", "    ProxyCommand none"]
    else:
        way = [f"    ProxyJump proxy.{profile.identity.cluster}"]
    return [
        f"# tinyport: cluster {cluster.name}, for a login of {profile.identity.cluster}. Made by tsh config --cluster.",
        *([] if cluster.proxy else [f"# It goes through proxy.{profile.identity.cluster}: tsh config prints that."]),
        f"Host proxy.{cluster.name}",
        f"    HostKeyAlias proxy.{cluster.name}",
        *way,
        *common,
        "",
        f"# ssh LOGIN@NODE.{cluster.name}",
        f"Host *.{cluster.name}",
        *common,
        f"    ProxyJump proxy.{cluster.name}",
    ]

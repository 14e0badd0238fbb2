"""Who a TLS peer is: the URI SAN of its certificate, and nothing else. Light: link loads it."""

from __future__ import annotations

from tinyport.core.errors import PeerError
from tinyport.core.names import check_cluster, check_user, is_uuid, printable

KINDS = ("user", "node", "proxy", "auth")
_SCHEME = "tinyport://"


class Identity:
    """``tinyport://<cluster>/<kind>/<id>``: an immutable value. ``id`` is a UUID, for users the user name."""

    __slots__ = ("cluster", "id", "kind")

    cluster: str
    id: str
    kind: str

    def __init__(self, kind: str, cluster: str, id: str) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "cluster", cluster)
        object.__setattr__(self, "id", id)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an identity does not change")

    @property
    def uri(self) -> str:
        return f"{_SCHEME}{self.cluster}/{self.kind}/{self.id}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"Identity({self.uri})"


def parse_uri(uri: str) -> Identity:
    """The identity that a URI names; PeerError for anything that is not exactly of our form."""
    parts = uri[len(_SCHEME) :].split("/")
    if not uri.startswith(_SCHEME) or len(parts) != 3 or parts[1] not in KINDS:
        raise PeerError("the certificate does not name an identity of tinyport", detail=printable(uri, 120))
    cluster, kind, id = parts
    check_cluster(cluster)
    if kind == "user":
        check_user(id)
    elif not is_uuid(id):
        raise PeerError(f"the certificate's {kind} id is not a UUID", detail=printable(uri, 120))
    return Identity(kind, cluster, id)


def from_peer_certificate(peercert: object) -> Identity:
    """What ``SSLSocket.getpeercert()`` returned → the identity. PeerError when there is not exactly one URI SAN."""
    names: object = peercert.get("subjectAltName", ()) if isinstance(peercert, dict) else ()
    uris = [value for kind, value in names if kind == "URI"] if isinstance(names, tuple) else []
    if len(uris) != 1:
        raise PeerError("the peer has no certificate of this cluster", detail=f"{len(uris)} URI names in it")
    return parse_uri(uris[0])

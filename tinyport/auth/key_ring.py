"""The keys of one moment: of each CA type the active one and, while it is rotated, the new one.

A value: a step of a rotation makes another ring. Which of the two signs is ``core.rotation``'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinyport.auth.sealing import Seal
from tinyport.auth.store_authorities import ACTIVE, NEW, AuthorityRow
from tinyport.auth.tls_certificates import TlsAuthority, load_authority
from tinyport.core.certificate import parse_public_line
from tinyport.core.errors import OperatorError
from tinyport.core.rotation import STANDBY, Rotation, signs_new
from tinyport.core.signatures import Ed25519Key

SSH_TYPES = ("user", "host")
POLICY = "policy"


@dataclass(frozen=True)
class KeyRing:
    """Made by ``load_ring``. ``ssh`` and ``tls``: keys by (type and) state; ``rotations``: CA type → its rotation."""

    rows: Mapping[tuple[str, str], AuthorityRow]
    ssh: Mapping[tuple[str, str], Ed25519Key]
    tls: Mapping[str, TlsAuthority]
    policy_key: Ed25519Key
    rotations: Mapping[str, Rotation]

    def phase(self, type: str) -> str:
        found = self.rotations.get(type)
        return STANDBY if found is None else found.phase

    def _state(self, type: str, kind: str) -> str:
        return NEW if signs_new(type, self.phase(type), kind) else ACTIVE

    def ssh_signer(self, type: str, kind: str) -> Ed25519Key:
        """What signs SSH certificates of ``kind`` (user, node, proxy) now; ``type`` is user or host."""
        return self.ssh[type, self._state(type, kind)]

    def tls_signer(self, kind: str) -> TlsAuthority:
        """What signs leafs of ``kind`` (user, node, proxy, auth) now."""
        return self.tls[self._state("tls", kind)]

    def lines(self, type: str) -> tuple[str, ...]:
        """The public keys of a type that are trusted now, as SSH lines; the one that signs servers' comes last."""
        states = (ACTIVE, NEW) if self._state(type, "auth") == NEW else (NEW, ACTIVE)
        return tuple(self.rows[type, state].public for state in states if (type, state) in self.rows)

    def tls_authorities(self) -> list[TlsAuthority]:
        """The TLS CAs that are trusted now; the one that signs servers' leafs comes last."""
        states = (ACTIVE, NEW) if self._state("tls", "auth") == NEW else (NEW, ACTIVE)
        return [self.tls[state] for state in states if state in self.tls]

    def own(self) -> set[bytes]:
        """The blobs of every SSH key that is ours, which nobody may have certified as theirs."""
        return {parse_public_line(row.public) for (type, _), row in self.rows.items() if type != "tls"}


def load_ring(rows: Sequence[AuthorityRow], rotations: Mapping[str, Rotation], seal: Seal | None = None) -> KeyRing:
    """The ring of the store's rows. ``seal``: what the private keys are encrypted with. OperatorError when a key is
    missing or damaged."""
    held = {(row.type, row.state): row if seal is None else seal.open(row) for row in rows}
    missing = [type for type in (*SSH_TYPES, POLICY, "tls") if (type, ACTIVE) not in held]
    # A phase in which the new key signs, and no new key: signing with the old one would be worse than not starting.
    missing += [f"new {name}" for name, one in rotations.items() if one.phase != STANDBY and (name, NEW) not in held]
    if missing:
        raise OperatorError(f"the store has no {' and no '.join(sorted(missing))} key", hint="restore a backup")
    return KeyRing(
        rows=held,
        ssh={key: Ed25519Key.from_openssh(row.private.encode()) for key, row in held.items() if key[0] in SSH_TYPES},
        tls={state: load_authority(row.private, row.public) for (type, state), row in held.items() if type == "tls"},
        policy_key=Ed25519Key.from_openssh(held[POLICY, ACTIVE].private.encode()),
        rotations=dict(rotations),
    )

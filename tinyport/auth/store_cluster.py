"""Rows about the cluster itself: its name, roles, locks, configuration, policy, issued certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyport.auth.store_rows import Rows, pack, unpack


@dataclass(frozen=True)
class LockRow:
    """Refuses what ``kind`` (user, node, role, login) and ``value`` name. ``expires``: Unix seconds or never."""

    id: str
    kind: str
    value: str
    expires: float | None
    message: str
    created: float
    created_by: str

    def document(self) -> dict[str, object]:
        """The lock as policy.md has it."""
        return {
            "id": self.id,
            "target": {self.kind: self.value},
            "expires": self.expires,
            "message": self.message,
        }


@dataclass(frozen=True)
class PolicyRow:
    """The policy document: ``content`` is what it says without serial and date, ``signed`` the signed document."""

    epoch: int
    serial: int
    content: str
    signed: dict[str, str]


class ClusterRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def meta(self, name: str) -> str | None:
        row = await self._rows.one("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else str(row["value"])

    async def set_meta(self, name: str, value: str) -> None:
        await self._rows.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)

    async def delete_meta(self, name: str) -> None:
        await self._rows.run("DELETE FROM meta WHERE name = ?", name)

    # ---------------------------------------------------------------- roles

    async def roles(self) -> dict[str, dict[str, object]]:
        """Role documents by name."""
        rows = await self._rows.all("SELECT name, document FROM roles ORDER BY name")
        return {row["name"]: unpack(row["document"]) for row in rows}

    async def put_role(self, name: str, document: Mapping[str, object]) -> None:
        await self._rows.run("INSERT OR REPLACE INTO roles VALUES (?, ?)", name, pack(document))

    async def delete_role(self, name: str) -> bool:
        return await self._rows.run("DELETE FROM roles WHERE name = ?", name) > 0

    # ---------------------------------------------------------------- locks

    async def locks(self) -> list[LockRow]:
        rows = await self._rows.all("SELECT * FROM locks ORDER BY created, id")
        return [LockRow(**dict(row)) for row in rows]

    async def add_lock(self, lock: LockRow) -> None:
        await self._rows.run(
            "INSERT INTO locks VALUES (?, ?, ?, ?, ?, ?, ?)",
            lock.id,
            lock.kind,
            lock.value,
            lock.expires,
            lock.message,
            lock.created,
            lock.created_by,
        )

    async def delete_lock(self, id: str) -> bool:
        return await self._rows.run("DELETE FROM locks WHERE id = ?", id) > 0

    async def delete_locks_expired_before(self, time: float) -> int:
        return await self._rows.run("DELETE FROM locks WHERE expires IS NOT NULL AND expires < ?", time)

    # ---------------------------------------------------------------- configuration

    async def config(self) -> dict[str, dict[str, object]]:
        """Configuration documents by name (there is one, ``cluster``)."""
        rows = await self._rows.all("SELECT name, document FROM config ORDER BY name")
        return {row["name"]: unpack(row["document"]) for row in rows}

    async def put_config(self, name: str, document: Mapping[str, object]) -> None:
        await self._rows.run("INSERT OR REPLACE INTO config VALUES (?, ?)", name, pack(document))

    # ---------------------------------------------------------------- policy

    async def policy(self) -> PolicyRow | None:
        row = await self._rows.one("SELECT epoch, serial, content, signed FROM policy")
        return None if row is None else PolicyRow(row["epoch"], row["serial"], row["content"], unpack(row["signed"]))

    async def put_policy(self, row: PolicyRow) -> None:
        await self._rows.run(
            "INSERT OR REPLACE INTO policy VALUES (1, ?, ?, ?, ?)", row.epoch, row.serial, row.content, pack(row.signed)
        )

    # ---------------------------------------------------------------- issued certificates

    async def add_certificate(
        self,
        *,
        serial: int,
        kind: str,
        subject: str,
        fingerprint: str,
        tls_serial: str,
        generation: int,
        issued: float,
        valid_before: float,
        proven: float | None = None,
        device: str = "",
    ) -> None:
        await self._rows.run(
            "INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            serial,
            kind,
            subject,
            fingerprint,
            tls_serial,
            generation,
            issued,
            valid_before,
            proven,
            device,
        )

    async def proven_of(self, tls_serial: str, subject: str) -> float | None:
        """When the bearer of a TLS certificate last showed their password (Unix seconds); None: never for it."""
        row = await self._rows.one(
            "SELECT proven FROM certificates WHERE tls_serial = ? AND subject = ?", tls_serial, subject
        )
        return None if row is None or row["proven"] is None else float(row["proven"])

    async def device_of(self, tls_serial: str, subject: str) -> str | None:
        """The fingerprint of the SSH key for which somebody logged in, of a login's TLS certificate; None when we did
        not issue it."""
        row = await self._rows.one(
            "SELECT fingerprint, device FROM certificates WHERE tls_serial = ? AND subject = ?", tls_serial, subject
        )
        return None if row is None else str(row["device"] or row["fingerprint"])

    async def first_device(self, fingerprint: str) -> str:
        """The key for which somebody logged in who has this one by now: itself, unless the login was extended."""
        row = await self._rows.one(
            "SELECT device FROM certificates WHERE fingerprint = ? AND device <> '' LIMIT 1", fingerprint
        )
        return fingerprint if row is None else str(row["device"])

    async def generation_of(self, tls_serial: str, subject: str) -> int | None:
        """The generation that a TLS certificate belongs to; None when we did not issue it."""
        row = await self._rows.one(
            "SELECT generation FROM certificates WHERE tls_serial = ? AND subject = ?", tls_serial, subject
        )
        return None if row is None else int(row["generation"])

    async def delete_certificates_ended_before(self, time: float) -> int:
        return await self._rows.run("DELETE FROM certificates WHERE valid_before < ?", time)

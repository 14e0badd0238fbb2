"""Rows about users: who they are, their passwords, their invitations, and since when certificates count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyport.auth.store_rows import Rows, pack, unpack


@dataclass(frozen=True)
class UserRow:
    """A user. ``password``: argon2's encoded hash, None before the invitation was accepted. Times: Unix seconds."""

    name: str
    roles: tuple[str, ...]
    traits: Mapping[str, tuple[str, ...]]
    created: float
    password: str | None = field(default=None, repr=False)
    failures: int = 0
    locked_until: float = 0.0

    @property
    def logins(self) -> tuple[str, ...]:
        return self.traits.get("logins", ())


@dataclass(frozen=True)
class InvitationRow:
    id: str
    digest: str = field(repr=False)
    user: str
    expires: float


class UserRows:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, name: str) -> UserRow | None:
        row = await self._rows.one("SELECT * FROM users WHERE name = ?", name)
        return None if row is None else _user(dict(row))

    async def all(self) -> list[UserRow]:
        return [_user(dict(row)) for row in await self._rows.all("SELECT * FROM users ORDER BY name")]

    async def count(self) -> int:
        row = await self._rows.one("SELECT count(*) AS n FROM users")
        return 0 if row is None else int(row["n"])

    async def add(self, user: UserRow) -> None:
        await self._rows.run(
            "INSERT INTO users (name, roles, traits, password, created) VALUES (?, ?, ?, ?, ?)",
            user.name,
            pack(list(user.roles)),
            pack(_lists(user.traits)),
            user.password,
            user.created,
        )

    async def set_access(self, name: str, roles: Sequence[str], traits: Mapping[str, Sequence[str]]) -> None:
        await self._rows.run(
            "UPDATE users SET roles = ?, traits = ? WHERE name = ?", pack(list(roles)), pack(_lists(traits)), name
        )

    async def set_password(self, name: str, password: str | None) -> None:
        """A new password (None: none until the next invitation) also ends a lock-out."""
        await self._rows.run(
            "UPDATE users SET password = ?, failures = 0, locked_until = 0 WHERE name = ?", password, name
        )

    async def set_failures(self, name: str, failures: int, locked_until: float) -> None:
        await self._rows.run(
            "UPDATE users SET failures = ?, locked_until = ? WHERE name = ?", failures, locked_until, name
        )

    async def delete(self, name: str) -> bool:
        return await self._rows.run("DELETE FROM users WHERE name = ?", name) > 0

    # ---------------------------------------------------------------- invitations

    async def invite(self, invitation: InvitationRow) -> None:
        """The newest invitation of a user replaces those before."""
        await self._rows.run("DELETE FROM invitations WHERE user = ?", invitation.user)
        await self._rows.run(
            "INSERT INTO invitations VALUES (?, ?, ?, ?)",
            invitation.id,
            invitation.digest,
            invitation.user,
            invitation.expires,
        )

    async def invitation(self, id: str) -> InvitationRow | None:
        row = await self._rows.one("SELECT id, digest, user, expires FROM invitations WHERE id = ?", id)
        return None if row is None else InvitationRow(**dict(row))

    async def use_invitation(self, id: str) -> bool:
        """Take it away; True for the one who did."""
        return await self._rows.run("DELETE FROM invitations WHERE id = ?", id) > 0

    async def delete_invitations_expired_before(self, time: float) -> int:
        return await self._rows.run("DELETE FROM invitations WHERE expires < ?", time)

    # ---------------------------------------------------------------- certificates that no longer count

    async def refuse_before(self) -> dict[str, int]:
        rows = await self._rows.all("SELECT user, before FROM refuse_before ORDER BY user")
        return {row["user"]: int(row["before"]) for row in rows}

    async def refused_before(self, user: str) -> int:
        row = await self._rows.one("SELECT before FROM refuse_before WHERE user = ?", user)
        return 0 if row is None else int(row["before"])

    async def set_refuse_before(self, user: str, before: int) -> None:
        # Only ever forward: a clock that was set back must not bring old certificates to life.
        await self._rows.run(
            "INSERT INTO refuse_before VALUES (?, ?) "
            "ON CONFLICT (user) DO UPDATE SET before = max(before, excluded.before)",
            user,
            before,
        )


def _lists(traits: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in traits.items()}


def _user(row: dict[str, object]) -> UserRow:
    traits = unpack(str(row["traits"]))
    return UserRow(
        name=str(row["name"]),
        roles=tuple(unpack(str(row["roles"]))),
        traits={name: tuple(values) for name, values in traits.items()},
        created=float(str(row["created"])),
        password=None if row["password"] is None else str(row["password"]),
        failures=int(str(row["failures"])),
        locked_until=float(str(row["locked_until"])),
    )

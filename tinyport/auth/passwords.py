"""Passwords: argon2id, in threads of its own, never more at once than the memory allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHash, VerificationError

from tinyport.auth.settings import PasswordCost
from tinyport.core.errors import PeerError, Unavailable

T = TypeVar("T")

LONGEST = 256
FEWEST_DIFFERENT = 3
# Each waits some 50 ms for its turn; whoever comes after these would give up anyway.
MOST_WAITING = 64


def check_password(password: str, shortest: int) -> str:
    """A new password of at least ``shortest`` characters. PeerError when it is too short or too long, or one character
    again and again; NIST SP 800-63B section 5.1.1.2 advises against any other rule."""
    if len(password) < shortest:
        raise PeerError(f"the password is too short: at least {shortest} characters", code="bad_password")
    if len(set(password)) < FEWEST_DIFFERENT:
        raise PeerError("the password is one character again and again; choose another", code="bad_password")
    if len(password) > LONGEST:
        raise PeerError(f"the password is too long: at most {LONGEST} characters", code="bad_password")
    return password


class Passwords:
    """Made once; ``close`` it."""

    def __init__(self, cost: PasswordCost) -> None:
        self._hasher = PasswordHasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(cost.parallel, thread_name_prefix="argon2")
        self._waiting = 0
        # Verified for users that do not exist, so that an answer takes as long for them.
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """argon2's encoded hash. Unavailable when too many are waiting."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Is this the password? ``stored`` None (no such user, no password yet): False, after as long a time."""
        right = await self._run(lambda: self._verify(stored or self._nobody, password))
        return right and stored is not None

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHash):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("too many people are logging in at this moment", hint="try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

"""The auth server of ``tests/auth``, for attacks on it."""

from __future__ import annotations

from tests.auth.conftest import auth, clock, start

__all__ = ["auth", "clock", "start"]

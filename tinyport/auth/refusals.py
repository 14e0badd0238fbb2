"""Refusals that several parts of the API make, and the HTTP status of each code (docs/protocol/api.md)."""

from __future__ import annotations

from collections.abc import Mapping

from tinyport.core.errors import AccessDenied, ConfigError, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.names import printable
from tinyport.core.policy import Policy

_STATUS: dict[str, int] = {
    "bad_request": 400,
    "bad_password": 400,
    "config": 400,
    "login_required": 401,
    "bad_credentials": 401,
    "bad_token": 401,
    "bad_code": 400,
    "otp_required": 401,
    "factor_missing": 401,
    "expired": 401,
    "stale_challenge": 401,
    "denied": 403,
    "locked": 403,
    "clock": 403,
    "not_found": 404,
    "no_such_node": 404,
    "no_method": 405,
    "exists": 409,
    "ambiguous": 409,
    "ended": 409,
    "offset": 409,
    "offline": 409,
    "in_use": 409,
    "too_large": 413,
    "slow_down": 429,
    "internal": 500,
    "unavailable": 503,
}
_STATUS_OF_CLASS: tuple[tuple[type[TinyportError], int], ...] = (
    (PeerError, 400),
    (AccessDenied, 403),
    (ConfigError, 400),
    (OperatorError, 500),
    (Unavailable, 503),
)


def status_of(error: TinyportError) -> int:
    """The HTTP status of an error: by its code, else by whose fault it is."""
    status = _STATUS.get(error.code)
    if status is not None:
        return status
    return next((number for kind, number in _STATUS_OF_CLASS if isinstance(error, kind)), 400)


def error_object(error: TinyportError) -> dict[str, object]:
    """The JSON body of an error. Its ``detail`` is for our log and stays here."""
    body: dict[str, object] = {**error.extra, "code": error.code, "message": error.message}
    if error.hint:
        body["hint"] = error.hint
    if isinstance(error, ConfigError):
        body["problems"] = error.problems
    return {"error": body}


def not_found(what: str, name: str, hint: str = "") -> PeerError:
    return PeerError(f"there is no {what} {printable(name, 80)}", hint=hint, code="not_found")


def exists(what: str, name: str, hint: str = "") -> PeerError:
    return PeerError(f"there is a {what} {printable(name, 80)} already", hint=hint, code="exists")


def login_required(message: str, hint: str = 'run "tsh login"') -> TinyportError:
    return AccessDenied(message, hint=hint, code="login_required")


def refuse_locked(policy: Policy, now: float, targets: Mapping[str, set[str]]) -> None:
    """AccessDenied ``locked`` when an active lock names one of ``targets`` (kind → values)."""
    for lock in policy.locks:
        if not lock.active(now):
            continue
        for kind, value in lock.target.items():
            if value in targets.get(kind, ()):
                why = f": {printable(lock.message)}" if lock.message else ""
                raise AccessDenied(
                    f"{kind} {printable(value, 60)} is locked{why}", detail=f"lock {lock.id}", code="locked"
                )

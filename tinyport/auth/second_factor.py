"""One-time codes: RFC 6238 (TOTP), as every authenticator app makes them.

SHA-1, six digits, thirty seconds: what apps assume when they ignore the rest of the URI, and many do.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from functools import partial
from urllib.parse import quote

import segno
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from tinyport.auth.service import Service
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_factors import FactorRow
from tinyport.auth.web import Call
from tinyport.core.errors import AccessDenied, PeerError

# RFC 4226 section 4, R6: 160 bits are recommended.
SECRET_BYTES = 20
DIGITS = 6
STEP = 30
# RFC 6238 section 5.2: one step of delay is recommended; phones are also ahead.
DRIFT = (0, -1, 1)
ID_BYTES = 8
MOST = 10


def code_at(secret: bytes, step: int) -> str:
    """The code of a time step (Unix time divided by thirty)."""
    return TOTP(secret, DIGITS, SHA1(), STEP).generate(step * STEP).decode("ascii")  # noqa: S303 - RFC 6238


def matching_step(secret: bytes, code: str, now: float) -> int | None:
    """The time step around ``now`` (Unix seconds) whose code this is."""
    typed = code.replace(" ", "").encode("utf-8", "replace")
    found = None
    for drift in DRIFT:
        step = int(now) // STEP + drift
        if hmac.compare_digest(code_at(secret, step).encode("ascii"), typed):
            found = step
    return found


def enrolment(factor: FactorRow, cluster: str) -> dict[str, object]:
    """What an authenticator needs: ``secret`` (base32), ``uri`` (otpauth), and ``qr``, the rows of its QR code, each
    a text of 0 and 1 (1 is dark)."""
    secret = base64.b32encode(factor.secret).decode("ascii")
    issuer = quote(cluster, safe="")
    uri = (
        f"otpauth://totp/{issuer}:{quote(factor.user, safe='')}?secret={secret}&issuer={issuer}"
        f"&algorithm=SHA1&digits={DIGITS}&period={STEP}"
    )
    rows = ["".join("1" if dark else "0" for dark in row) for row in segno.make(uri, error="m", micro=False).matrix]
    return {"secret": secret, "uri": uri, "qr": rows}


def new_factor(user: str, name: str, now: float) -> FactorRow:
    """A fresh secret, to be confirmed by its first code."""
    return FactorRow(secrets.token_hex(ID_BYTES), user, name, secrets.token_bytes(SECRET_BYTES), now)


async def spend_code(service: Service, tables: WriteTables, user: str, code: str, now: float) -> bool:
    """Is this a code of one of the user's confirmed factors, and was it never used? It is used up then, also when the
    disk does not take that."""
    unwritten = service.unwritten
    for factor in await tables.factors.of(user):
        step = matching_step(factor.secret, code, now)
        if step is None:
            continue
        if unwritten.was_used(factor.id, step) or not await tables.factors.use_step(factor.id, step):
            return False
        tables.when_lost(partial(unwritten.use_step, factor.id, step))
        return True
    return False


async def confirm(tables: WriteTables, factor: FactorRow, code: str, now: float) -> None:
    """The first code: the authenticator has the secret. PeerError ``bad_code`` when it is not one."""
    step = matching_step(factor.secret, code, now)
    if step is None or not await tables.factors.use_step(factor.id, step):
        raise bad_code()
    await tables.factors.confirm(factor.id)


def bad_code() -> PeerError:
    return PeerError(
        "the one-time code is wrong, or was used already",
        hint="wait for the next code; is the clock of this device and of the authenticator right?",
        code="bad_code",
    )


async def is_asked(service: Service, tables: Tables, user: str) -> bool:
    """Does this user need a code to log in? AccessDenied ``factor_missing`` when they need one and have none.

    A password alone must not be enough to set one up then: it would be the only factor after all.
    """
    rule = service.issuer.config.second_factor
    has_one = bool(await tables.factors.of(user)) if rule != "off" else False
    if rule == "required" and not has_one:
        raise AccessDenied(
            "this cluster asks for a one-time code, and none is set up for you",
            hint=f"ask an administrator for a new invitation: tctl users reset {user}",
            code="factor_missing",
        )
    return has_one


def code_of(call: Call) -> str | None:
    return call.fields.optional_text("otp", 16)

"""Wrong passwords and wrong codes: written down, counted, and after too many the user waits."""

from __future__ import annotations

from typing import NoReturn

from tinyport.auth.web import Call
from tinyport.core.errors import AccessDenied
from tinyport.core.names import printable

MAX_FAILURES = 5
LOCK_OUT = 15 * 60


def bad_credentials(call: Call) -> AccessDenied:
    """The same words for an unknown user, a wrong password, a wrong code and a user who is locked out."""
    if call.service.issuer.config.second_factor == "off":
        return AccessDenied("user or password is wrong", code="bad_credentials")
    return AccessDenied("user, password or one-time code is wrong", code="bad_credentials")


def wrong_code() -> AccessDenied:
    """For somebody who is logged in, and showed nothing but a code. The same words for one who is locked out."""
    return AccessDenied(
        "the one-time code is wrong, was used already, or too many before it were wrong",
        hint="wait for the next code",
        code="bad_credentials",
    )


async def login_failed(call: Call, name: str, *, counts: bool, refusal: AccessDenied | None = None) -> NoReturn:
    """Refuse, as ``refusal`` says. ``counts``: what was shown was wrong; a user for whom that happens too often is
    locked out."""
    service = call.service
    told = service.count_failure(call.source)
    now = service.now()
    async with service.store.write(or_go_on=True) as tables:
        user = await tables.users.get(name)
        if told:
            await service.audit.record(
                tables, "user.login.failed", user=printable(name, 64), source=call.source or None
            )
        if user is None:
            # Nobody's count, so that the work is the same for names that are not there.
            await tables.users.set_failures(name, 0, 0)
        elif counts and now >= user.locked_until:
            failures = user.failures + 1
            out = failures >= MAX_FAILURES
            await tables.users.set_failures(name, 0 if out else failures, now + LOCK_OUT if out else 0)
            tables.when_lost(lambda: service.unwritten.failed(name, MAX_FAILURES, now, LOCK_OUT))
            if out:
                await service.audit.record(
                    tables, "user.locked_out", user=name, until=now + LOCK_OUT, source=call.source or None
                )
    raise refusal or bad_credentials(call)

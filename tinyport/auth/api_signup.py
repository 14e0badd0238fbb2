"""Routes of invitations: a new user sets a password and, where the cluster asks for codes, an authenticator."""

from __future__ import annotations

from tinyport.auth import second_factor
from tinyport.auth.passwords import check_password
from tinyport.auth.store import WriteTables
from tinyport.auth.store_factors import FactorRow
from tinyport.auth.store_users import InvitationRow
from tinyport.auth.web import Answer, Call
from tinyport.core import tokens
from tinyport.core.errors import AccessDenied, PeerError


def _bad_invitation() -> AccessDenied:
    return AccessDenied(
        "the invitation is not valid (any more)",
        hint="ask for a new one: tctl users reset NAME",
        code="bad_token",
    )


async def _invitation(call: Call) -> InvitationRow:
    service = call.service
    service.check_source(call.source)
    id, secret = tokens.split(call.fields.text("invitation", 300))
    found = await service.store.read.users.invitation(id)
    right = tokens.matches(secret, found.digest if found is not None else tokens.digest(""))
    if found is None or not right or service.now() >= found.expires:
        service.count_failure(call.source)
        raise _bad_invitation()
    return found


async def invitation(call: Call) -> Answer:
    """For whom an invitation is, without accepting it. Where codes are used, also what an authenticator needs: asked
    again, the same secret."""
    service = call.service
    found = await _invitation(call)
    rule = service.issuer.config.second_factor
    answer = {"user": found.user, "expires": found.expires, "cluster": service.cluster, "second_factor": rule}
    if rule == "off":
        return answer
    async with service.store.write() as tables:
        factor = await tables.factors.waiting(found.user)
        if factor is None:
            factor = second_factor.new_factor(found.user, "first", service.now())
            await tables.factors.begin(factor)
    return {**answer, "totp": second_factor.enrolment(factor, service.cluster)}


async def signup(call: Call) -> Answer:
    """Accept an invitation: the user has a password from now on, and a second factor when a code of it is shown."""
    service = call.service
    found = await _invitation(call)
    password = check_password(call.fields.text("password", 4096), service.issuer.config.password_min_length)
    code = second_factor.code_of(call)
    if code is None and service.issuer.config.second_factor == "required":
        raise PeerError(
            "this cluster asks for a one-time code",
            hint="set up the authenticator with the invitation's QR code, and give its first code",
            code="otp_required",
        )
    hashed = await service.passwords.hash(password)
    async with service.store.write() as tables:
        if not await tables.users.use_invitation(found.id):
            raise _bad_invitation()
        factor = await tables.factors.waiting(found.user)
        if code is not None:
            await _confirm(call, tables, factor, code)
        elif factor is not None:
            await tables.factors.remove(factor.id)
        await tables.users.set_password(found.user, hashed)
        await service.audit.record(
            tables, "user.signup", user=found.user, source=call.source or None, second_factor=code is not None
        )
    return {"user": found.user}


async def _confirm(call: Call, tables: WriteTables, factor: FactorRow | None, code: str) -> None:
    if factor is None:
        raise PeerError("there is no second factor to confirm", hint="open the invitation again", code="bad_code")
    try:
        await second_factor.confirm(tables, factor, code, call.service.now())
    except PeerError:
        call.service.count_failure(call.source)
        raise

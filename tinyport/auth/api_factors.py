"""Routes about one's own second factors. Who has one needs a code of it to change them: a login alone is not enough."""

from __future__ import annotations

from tinyport.auth import second_factor
from tinyport.auth.api_login import MAX_KEY, issue_for, roles_of
from tinyport.auth.failures import login_failed, wrong_code
from tinyport.auth.reaching import Viewer, resolve
from tinyport.auth.refusals import not_found
from tinyport.auth.store import WriteTables
from tinyport.auth.store_factors import FactorRow
from tinyport.auth.web import Answer, Call
from tinyport.core.errors import AccessDenied, PeerError
from tinyport.core.names import printable

_MAX_NAME = 40
_MAX_NODES = 64
# Long enough for a slow link to set up the session.
_SESSION_LIFE = 120


def _document(factor: FactorRow) -> dict[str, object]:
    return {"id": factor.id, "name": factor.name, "type": "totp", "created": factor.created}


async def list_factors(call: Call) -> Answer:
    service = call.service
    found = await service.store.read.factors.of(call.caller.name)
    return {"factors": [_document(factor) for factor in found], "second_factor": service.issuer.config.second_factor}


async def begin_factor(call: Call) -> Answer:
    """A new secret; it counts once a code of it was shown."""
    service = call.service
    user = call.caller.name
    name = call.fields.text("name", _MAX_NAME)
    if printable(name, 4 * _MAX_NAME) != name:
        raise PeerError("name: printable characters only")
    if service.issuer.config.second_factor == "off":
        raise PeerError(
            "this cluster does not ask for one-time codes",
            hint='an administrator changes it: second_factor = "optional" in cluster_config',
        )
    await _prove(call)
    async with service.store.write() as tables:
        held = await tables.factors.of(user)
        if len(held) >= second_factor.MOST:
            raise PeerError(f"at most {second_factor.MOST} second factors", hint="remove one first: tsh mfa rm ID")
        if any(factor.name == name for factor in held):
            raise PeerError(f"there is a second factor {name} already", code="exists")
        factor = second_factor.new_factor(user, name, service.now())
        await tables.factors.begin(factor)
    return {"id": factor.id, "name": name, "totp": second_factor.enrolment(factor, service.cluster)}


async def confirm_factor(call: Call) -> Answer:
    """The first code of a new factor."""
    service = call.service
    code = call.fields.text("otp", 16)
    async with service.store.write() as tables:
        factor = await tables.factors.get(call.caller.name, call.path("id"))
        if factor is None or factor.confirmed:
            raise not_found("second factor that waits for its first code:", call.path("id"))
        await second_factor.confirm(tables, factor, code, service.now())
        await service.audit.record(tables, "user.factor.add", user=call.caller.name, factor=factor.name)
    return {"factor": _document(factor)}


async def remove_factor(call: Call) -> Answer:
    service = call.service
    await _prove(call)
    async with service.store.write() as tables:
        factor = await _one(call, tables)
        last = len(await tables.factors.of(factor.user)) == 1
        if last and service.issuer.config.second_factor == "required":
            raise PeerError(
                "this is your only second factor, and the cluster asks for one",
                hint="add another first: tsh mfa add NAME",
                code="in_use",
            )
        await tables.factors.remove(factor.id)
        await service.audit.record(tables, "user.factor.remove", user=factor.user, factor=factor.name)
    return {"factor": _document(factor)}


async def session_certificate(call: Call) -> Answer:
    """A code → a certificate of two minutes for sessions on the nodes named, where roles ask for a code each time."""
    service, fields = call.service, call.fields
    ssh_key = service.authority.user_key(fields.text("ssh_public_key", MAX_KEY))
    wanted = fields.texts("nodes", _target)
    if not wanted or len(wanted) > _MAX_NODES:
        raise PeerError(f"nodes: 1 to {_MAX_NODES} names are needed")
    if not await service.store.read.factors.of(call.caller.name):
        raise AccessDenied(
            "a one-time code is needed, and none is set up for you", hint="tsh mfa add NAME", code="factor_missing"
        )
    await _prove(call, or_go_on=True)
    async with service.store.write(or_go_on=True) as tables:
        user = await tables.users.get(call.caller.name)
        if user is None:
            raise not_found("user", call.caller.name)
        roles = roles_of(call, user)
        viewer = Viewer(user.name, tuple(roles), user.traits)
        nodes = [await resolve(service, viewer, name) for name in wanted]
        leaf = call.caller.leaf
        device = None if leaf is None else await tables.cluster.device_of(leaf.serial, user.name)
        targets = [node.uuid for node in nodes]
        # Where sessions end with the certificate, they end with the login, and not with this one.
        ends = {} if leaf is None else {"login_ends": int(leaf.not_after)}
        pair, _ = await issue_for(
            call,
            tables,
            user,
            roles,
            ssh_key,
            request=None,
            ttl=_SESSION_LIFE,
            second_factor={"nodes": targets, **ends},
            device=device or "",
        )
        await service.audit.record(
            tables,
            "certificate.issue",
            user=user.name,
            by=call.caller.actor,
            serial=pair.serial,
            fingerprint=pair.fingerprint,
            expires=pair.valid_before,
            second_factor_for=targets,
        )
    return {"ssh_certificate": pair.ssh_certificate, "valid_before": pair.valid_before}


def _target(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise PeerError("a node's name or UUID is needed")
    return value


async def _one(call: Call, tables: WriteTables) -> FactorRow:
    """By ID or by name."""
    wanted = call.path("id")
    for factor in await tables.factors.of(call.caller.name):
        if wanted in (factor.id, factor.name):
            return factor
    raise not_found("second factor", wanted)


async def _prove(call: Call, *, or_go_on: bool = False) -> None:
    """Whoever has a factor shows a code. A wrong one counts as a wrong password does."""
    service = call.service
    name = call.caller.name
    code = second_factor.code_of(call)
    async with service.store.write(or_go_on=or_go_on) as tables:
        user = await tables.users.get(name)
        if not await tables.factors.of(name):
            return
        if code is None:
            raise AccessDenied("a code of a second factor that you have is needed", code="otp_required")
        now = service.now()
        waits = user is None or now < user.locked_until or service.unwritten.locked_out(name, now)
        if not waits and await second_factor.spend_code(service, tables, name, code, service.now()):
            return
    await login_failed(call, name, counts=True, refusal=wrong_code())

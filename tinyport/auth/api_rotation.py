"""``tctl auth rotate``: the CAs' rotations, and the end of keys that somebody else may have."""

from __future__ import annotations

from tinyport.auth.rotating import replace_everything, rotate, rotation_state
from tinyport.auth.web import Answer, Call
from tinyport.core import rotation as r
from tinyport.core.errors import PeerError
from tinyport.core.names import printable

DEFAULT_GRACE = 48 * 3600
# Long enough for the last document to reach the machines that are connected, short enough for whoever is not welcome.
_CUT_AFTER = 5.0


def _type(value: object) -> str:
    if value not in r.TYPES:
        raise PeerError(f"{printable(str(value), 40)!r} is none of {', '.join(r.TYPES)}")
    return str(value)


async def rotate_route(call: Call) -> Answer:
    """``{"types": [...], "phase": P}`` takes one step, ``"force": true`` also to standby while a proxy has not
    followed; with ``grace`` (seconds), or without a phase, all of them."""
    fields = call.fields
    types = fields.texts("types", _type)
    if not types:
        raise PeerError(f"types: at least one of {', '.join(r.TYPES)}")
    phase = fields.optional_text("phase", 32)
    if phase is not None and phase not in r.PHASES:
        raise PeerError(f"phase: must be one of {', '.join(r.PHASES)}")
    grace = None
    if phase is None:
        grace = r.check_grace(fields.integer("grace", 0, 2**31, DEFAULT_GRACE))
    elif fields.has("grace"):
        raise PeerError("grace: a rotation goes by itself or phase by phase", hint="leave one of the two out")
    force = fields.flag("force")
    await rotate(call.service, types, phase or r.INIT, by=call.caller.actor, grace=grace, force=force)
    return await rotation_state(call.service)


async def compromised_route(call: Call) -> Answer:
    """Replace every key at once, and cut whoever came in by the old ones. ``{"cluster": NAME}`` says it is meant."""
    service = call.service
    if call.fields.text("cluster", 253) != service.cluster:
        raise PeerError(f"cluster: it must be the name of this one, {service.cluster}")
    answer = await replace_everything(service, by=call.caller.actor)
    service.cut_later(_CUT_AFTER)
    return {**answer, "ca_pins": list(service.authority.ca_pins)}

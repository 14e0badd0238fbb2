"""What the other end refused, or why it could not be reached, as one of our errors (docs/protocol/api.md, Errors)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from tinyport.core.errors import AccessDenied, OperatorError, TinyportError, Unavailable
from tinyport.core.names import printable

#: status → whose fault. Anything else in 4xx is the request's, in 5xx the server's.
_STATUS_FAULTS: dict[int, type[TinyportError]] = {401: AccessDenied, 403: AccessDenied, 429: Unavailable}
#: code → whose fault, where there is no status or it says too little
_CODE_FAULTS: dict[str, type[TinyportError]] = {
    "offline": Unavailable,
    "unavailable": Unavailable,
    "ambiguous": OperatorError,
    "bad_request": OperatorError,
    "no_such_node": OperatorError,
    "not_found": OperatorError,
}


def error_of(status: int, answer: object) -> TinyportError:
    """The API's error object as the exception it stands for: ``message``, ``code``, ``hint``, the rest in
    ``extra``.
    """
    found = answer.get("error") if isinstance(answer, Mapping) else None
    fields: dict[str, object] = dict(found) if isinstance(found, Mapping) else {}
    code = _word(fields.pop("code", ""))
    message = _word(fields.pop("message", "")) or f"auth answered with status {status}"
    hint = _word(fields.pop("hint", ""))
    fault = _CODE_FAULTS.get(code) or _STATUS_FAULTS.get(status) or (Unavailable if status >= 500 else OperatorError)
    error = fault(message, hint=hint, code=code)
    error.extra = fields
    return error


def _word(value: object) -> str:
    return printable(value, 2000) if isinstance(value, str) else ""


def cannot_reach(where: str, error: OSError) -> Unavailable:
    """Unavailable for a connection that could not be opened, saying why in words."""
    if isinstance(error, socket.gaierror):
        return Unavailable(f"cannot reach {where}: no such host", detail=str(error))
    if isinstance(error, TimeoutError):
        return Unavailable(f"cannot reach {where}: no answer")
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return Unavailable(f"cannot reach {where}: {reason}")

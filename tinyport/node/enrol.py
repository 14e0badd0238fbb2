"""The process that joins, renews and returns for a node. It loads ``cryptography``, and is gone again.

Started with its task (JSON) on fd 4, a pipe or memory file for its answer on fd 3, and the two memory files of
``identity_view`` on fds 5 and 6. The task: ``{"mode": "join"|"again"|"renew", "identity": path, "log": {...}, for renew
"servers": ["host:port", ...], "instance", and for the others "server": [host, port], "token", "ca_pins", "insecure",
"nodename", "serial"}``. The answer: ``{"ok": true}`` or ``{"error": {"kind", "message", "detail", "hint", "code"}}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.host import identity_file
from tinyport.host.logging_line import Log
from tinyport.host.privileges import not_dumpable
from tinyport.node import identity_view
from tinyport.node.python_process import name_process

ANSWER, TASK, PUBLIC, SECRET = 3, 4, 5, 6
MAX_TASK = 256 * 1024
MAX_ANSWER = 64 * 1024

_KINDS: dict[str, type[TinyportError]] = {
    kind.__name__: kind for kind in (AccessDenied, OperatorError, PeerError, Unavailable)
}


def main() -> None:
    """Do the task; exit status 0 when the identity is on the disk and in the memory files."""
    name_process("tinyport-enrol")
    # New keys are made here.
    not_dumpable()
    task = json.loads(_read_all(TASK, MAX_TASK))
    log = Log("node.enrol", task["log"]["level"], task["log"]["format"])
    try:
        identity = perform(task, log)
        identity_view.fill((PUBLIC, SECRET), identity)
        answer: dict[str, object] = {"ok": True}
    except TinyportError as error:
        answer = {"error": error_fields(error)}
    except OSError as error:
        answer = {"error": error_fields(OperatorError(f"cannot keep the identity: {error}"))}
    os.write(ANSWER, json.dumps(answer).encode())
    raise SystemExit(0 if "ok" in answer else 1)


def perform(task: Mapping[str, object], log: Log) -> dict[str, object]:
    """Join, join again when this device was put out, or renew → the identity that was written."""
    from tinyport.link import enrolment

    path = Path(str(task["identity"]))
    if task["mode"] == "renew":
        return _renewed(path, _texts(task.get("servers", [])), log, str(task.get("instance") or ""))
    if task["mode"] == "again" and not enrolment.put_out(path, str(task["token"])):
        return identity_file.load(path)
    host, port = _pair(task["server"])
    identity = enrolment.join(
        (host, port),
        str(task["token"]),
        _texts(task["ca_pins"]),
        bool(task["insecure"]),
        "node",
        str(task["nodename"]),
        (),
        path,
        serial=str(task["serial"]),
        log=log,
    )
    words = {word: identity[word] for word in ("cluster", "name", "uuid")}
    log.info("joined", **words, host_key=_host_key(identity))
    return identity


def _host_key(identity: Mapping[str, object]) -> str:
    """What an administrator compares before letting this device in."""
    from tinyport.core.certificate import fingerprint
    from tinyport.core.signatures import Ed25519Key

    return fingerprint(Ed25519Key.from_openssh(str(identity["ssh_key"]).encode()).public_blob)


def _renewed(path: Path, servers: list[str], log: Log, instance: str = "") -> dict[str, object]:
    """At the first of these servers that answers as the cluster's; where the identity says, without any."""
    from tinyport.link import enrolment

    last: TinyportError | None = None
    for server in servers or [""]:
        try:
            return enrolment.renew_or_return(path, server=server, log=log, instance=instance)
        except (Unavailable, PeerError) as error:
            # Nobody is there, or somebody else: the cluster may have moved.
            last = last or error
            log.info("renewal was not possible there", server=server, reason=error)
    assert last is not None
    raise last


def _pair(value: object) -> tuple[str, int]:
    assert isinstance(value, list)
    host, port = value
    return str(host), int(port)


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def error_fields(error: TinyportError) -> dict[str, str]:
    """An error, to be raised again by the process that asked (``raised``)."""
    kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "OperatorError")
    return {"kind": kind, "message": error.message, "detail": error.detail, "hint": error.hint, "code": error.code}


def raised(answer: object) -> TinyportError | None:
    """The error in an answer, None when it is a yes."""
    if isinstance(answer, dict) and answer.get("ok") is True:
        return None
    fields = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(fields, dict):
        return OperatorError("the enrolling process ended without an answer", hint="its log line says why")
    kind = _KINDS.get(str(fields.get("kind")), OperatorError)
    return kind(
        str(fields.get("message")),
        detail=str(fields.get("detail", "")),
        hint=str(fields.get("hint", "")),
        code=str(fields.get("code", "")),
    )


def _read_all(descriptor: int, limit: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as source:
        return source.read(limit)

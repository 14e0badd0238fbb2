"""A user's identity in one value and one file (docs/protocol/identity-file.md): tsh and tctl read it, tctl auth sign
writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyport.core.certificate import parse_public_line
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.names import check_cluster, check_user, parse_address
from tinyport.host.files import read_limited, write_private

VERSION = 1
MAX_FILE = 256 * 1024

_TEXTS = ("user", "cluster", "proxy", "ssh_key", "ssh_certificate", "tls_key", "tls_certificate")
_LISTS = ("tls_cas", "host_cas", "proxies", "logins", "roles")
_TIMES = ("valid_after", "valid_before")
#: a reader of version 1 can do without these
_OPTIONAL = {"proxies": [], "logins": [], "roles": [], "valid_after": 0}


@dataclass(frozen=True)
class UserIdentity:
    """Keys, certificates and CAs of one user in one cluster. PEM and key lines are texts; times are Unix seconds."""

    user: str
    cluster: str
    proxy: str
    ssh_key: str
    ssh_certificate: str
    tls_key: str
    tls_certificate: str
    tls_cas: tuple[str, ...]
    host_cas: tuple[str, ...]
    valid_after: float
    valid_before: float
    proxies: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """The JSON object of an identity file."""
        return {"version": VERSION, **asdict(self)}

    def expired(self, now: float) -> bool:
        return now >= self.valid_before

    def require_current(self, now: float) -> None:
        """AccessDenied (code "expired") when the certificate has ended at ``now``, Unix seconds."""
        if self.expired(now):
            raise AccessDenied(
                f"certificate expired {format_duration(now - self.valid_before)} ago",
                code="expired",
                hint='run "tsh login"',
            )


def validate(found: object, where: str) -> UserIdentity:
    """A parsed identity file as a value. OperatorError (naming ``where``) when something is missing or not right."""
    if not isinstance(found, Mapping) or found.get("version") != VERSION:
        raise OperatorError(
            f"{where} is not an identity file of this version", hint="make one with tctl auth sign --format file"
        )
    values = {**_OPTIONAL, **found}
    wrong = [name for name in _TEXTS if not (isinstance(values.get(name), str) and values[name])]
    wrong += [name for name in _LISTS if not _is_texts(values.get(name))]
    wrong += [
        name for name in _TIMES if not isinstance(values.get(name), (int, float)) or isinstance(values[name], bool)
    ]
    if wrong:
        raise OperatorError(f"{where} is damaged: {', '.join(wrong)}", hint="make it again, or log in again")
    try:
        check_user(values["user"])
        check_cluster(values["cluster"])
        parse_address(values["proxy"])
        parse_public_line(values["ssh_certificate"])
        for line in values["host_cas"]:
            parse_public_line(line)
    except PeerError as error:
        raise OperatorError(f"{where} is damaged: {error.message}", hint="make it again, or log in again") from None
    fields: dict[str, Any] = {name: values[name] for name in (*_TEXTS, *_TIMES)}
    fields.update((name, tuple(values[name])) for name in _LISTS)
    return UserIdentity(**fields)


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def load(path: str | Path) -> UserIdentity:
    """Read an identity file. OperatorError when there is none, when others could read it, or when it is damaged."""
    try:
        state = os.stat(path)
        text = read_limited(path, MAX_FILE)
    except FileNotFoundError:
        raise OperatorError(f"there is no identity file {path}") from None
    if state.st_uid == os.geteuid() and state.st_mode & 0o077:
        # OpenSSH's rule for private keys: what others can read is no secret any more.
        raise OperatorError(f"{path} may be read by others", hint=f'run "chmod 600 {path}"')
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise OperatorError(f"{path} is not an identity file") from None
    return validate(found, str(path))


def save(path: str | Path, identity: UserIdentity) -> None:
    """Write an identity file, whole and 0600."""
    write_private(path, json.dumps(identity.document(), indent=1).encode() + b"\n")


def from_login(
    answer: Mapping[str, object], *, proxy: str, ssh_key: str, tls_key: str, where: str = "the answer of auth"
) -> UserIdentity:
    """The answer of ``POST /v1/login`` or ``/v1/sign``, with the keys that were certified, as an identity."""
    mine = {"version": VERSION, "proxy": proxy, "ssh_key": ssh_key, "tls_key": tls_key}
    try:
        return validate({**answer, **mine}, where)
    except OperatorError as error:
        raise PeerError(error.message) from None

"""The CAs' private keys encrypted at rest: whoever has only the disk, or a backup, has no cluster.

A data key encrypts each private key (AES-256-GCM); a passphrase encrypts the data key (scrypt, RFC 7914), so that the
keys of a rotation are encrypted without asking for it. The passphrase comes from outside at each start, usually as a
systemd credential.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tinyport.auth.store_authorities import AuthorityRow
from tinyport.core.errors import OperatorError

#: the name of the value in ``meta`` that holds the encrypted data key
META = "seal"
_MARK = "tinyport-sealed-v1 "
_WRAP = b"tinyport-seal-v1"
_NONCE = 12
_SALT = 16
# 64 MiB and a fifth of a second, once at each start; a Pi has it.
_N, _R, _P = 2**16, 8, 1
# What another version may ask of us: at most 1 GiB.
_MOST_N = 2**20
LEAST_PASSPHRASE = 12
MOST_PASSPHRASE = 4096


class Seal:
    """Encrypts and decrypts rows of authorities. Made by ``new_seal`` and ``open_seal``."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key = key

    def close(self, row: AuthorityRow) -> AuthorityRow:
        """The row with its private key encrypted."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, row.private.encode(), _bound_to(row))
        return replace(row, private=_MARK + base64.b64encode(sealed).decode("ascii"))

    def open(self, row: AuthorityRow) -> AuthorityRow:
        """The row with its private key in clear. OperatorError when it was not encrypted by this seal, or altered."""
        if not is_sealed(row):
            return row
        try:
            sealed = base64.b64decode(row.private[len(_MARK) :], validate=True)
            private = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound_to(row))
        except (InvalidTag, ValueError, binascii.Error):
            raise OperatorError(f"the {row.type} key in the store is damaged", hint="restore a backup") from None
        return replace(row, private=private.decode())

    def wrapped(self, passphrase: str) -> str:
        """The data key, encrypted by a passphrase, for ``meta``. OperatorError when that is too short."""
        salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
        outer = AESGCM(_derived(check_passphrase(passphrase), salt, _N, _R, _P))
        values = {"salt": salt, "key": nonce + outer.encrypt(nonce, self._key, _WRAP)}
        encoded = {name: base64.b64encode(value).decode("ascii") for name, value in values.items()}
        return json.dumps({"version": 1, "kdf": "scrypt", "n": _N, "r": _R, "p": _P, **encoded})


def new_seal() -> Seal:
    return Seal(AESGCM.generate_key(256))


def open_seal(wrapped: str, passphrase: str | None) -> Seal:
    """The seal of a store, from its value in ``meta``. OperatorError without the right passphrase."""
    if passphrase is None:
        raise OperatorError(
            "the cluster's keys are encrypted, and there is no passphrase",
            hint="give auth's service LoadCredential=tinyport.key-passphrase, or set auth.key_passphrase",
        )
    try:
        held = json.loads(wrapped)
        n, r, p = int(held["n"]), int(held["r"]), int(held["p"])
        if held["version"] != 1 or held["kdf"] != "scrypt" or not (1 < n <= _MOST_N and 0 < r <= 16 and 0 < p <= 4):
            raise ValueError("not of this version")
        salt, sealed = base64.b64decode(held["salt"]), base64.b64decode(held["key"])
        outer = AESGCM(_derived(passphrase, salt, n, r, p))
        return Seal(outer.decrypt(sealed[:_NONCE], sealed[_NONCE:], _WRAP))
    except InvalidTag:
        raise OperatorError(
            "the passphrase is not the one that the cluster's keys are encrypted with",
            hint="a restored backup has the passphrase of its day",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise OperatorError("the seal of the cluster's keys is damaged", hint="restore a backup") from None


def check_passphrase(passphrase: str) -> str:
    """OperatorError when it is no passphrase to encrypt with."""
    if not LEAST_PASSPHRASE <= len(passphrase) <= MOST_PASSPHRASE:
        raise OperatorError(
            f"a passphrase has {LEAST_PASSPHRASE} to {MOST_PASSPHRASE} characters",
            hint='"head -c 32 /dev/urandom | base64" makes a good one',
        )
    return passphrase


def is_sealed(row: AuthorityRow) -> bool:
    return row.private.startswith(_MARK)


def _bound_to(row: AuthorityRow) -> bytes:
    # Not the state, which changes in a rotation. An encrypted key cannot be put in the place of another one.
    return f"{_MARK}{row.type}\0{row.public}".encode()


def _derived(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.encode())

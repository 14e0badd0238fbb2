"""The identity a command works with, and the auth client that goes with it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from tinyport.core.names import parse_address
from tinyport.host.profile import chosen
from tinyport.host.user_identity import UserIdentity

if TYPE_CHECKING:
    from tinyport.link.api import AuthClient


def identity_of(args: argparse.Namespace) -> UserIdentity:
    """Who ``-i``, ``--proxy`` and the profiles say one is. AccessDenied when not logged in, or when it has expired."""
    identity = chosen(identity_file=args.identity, proxy=args.proxy)
    identity.require_current(time.time())
    return identity


def auth_client(identity: UserIdentity) -> AuthClient:
    """A client of auth that proves ``identity``."""
    from tinyport.link.api import AuthClient

    return AuthClient(
        parse_address(identity.proxy),
        tls_cas=identity.tls_cas,
        cert_pem=identity.tls_certificate,
        key_pem=identity.tls_key,
        cluster=identity.cluster,
    )

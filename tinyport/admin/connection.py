"""How tctl reaches auth: the unix socket on auth's own machine, or an administrator's login from anywhere."""

from __future__ import annotations

import argparse
import os
import time

from tinyport.admin import config_file
from tinyport.core.errors import OperatorError
from tinyport.core.names import parse_address
from tinyport.host import user_identity
from tinyport.host.profile import Profiles, home
from tinyport.host.user_identity import UserIdentity
from tinyport.link.api import AuthClient
from tinyport.start import api_socket


def connect(args: argparse.Namespace) -> AuthClient:
    """A client of the auth API for this command.

    ``-i`` and ``--proxy`` mean a login; else ``-c`` (or TINYPORT_CONFIG, or the default file) names auth's
    data_dir, whose
    socket is used when it is there; else the current tsh login. OperatorError when there is none of them.
    """
    if args.identity is None and args.proxy is None:
        path = config_file.chosen_path(args.config)
        if path is not None:
            socket = api_socket(config_file.load(path))
            if args.config or socket.exists():
                return AuthClient(socket)
    return _remote(_login(args), args.proxy)


def _login(args: argparse.Namespace) -> UserIdentity:
    if args.identity is not None:
        return user_identity.load(args.identity)
    try:
        return Profiles(home()).load(args.proxy or os.environ.get("TINYPORT_PROXY")).identity
    except OperatorError as error:
        raise OperatorError(
            "no auth server on this machine, and no login",
            hint='give -c FILE on the auth host, or run "tsh login" as an administrator',
            detail=str(error),
            code="login_required",
        ) from None


def _remote(identity: UserIdentity, proxy: str | None) -> AuthClient:
    identity.require_current(time.time())
    return AuthClient(
        parse_address(proxy or identity.proxy, 3080),
        tls_cas=identity.tls_cas,
        cert_pem=identity.tls_certificate,
        key_pem=identity.tls_key,
        cluster=identity.cluster,
    )


def proxy_of(client: AuthClient) -> str:
    """The cluster's first public proxy address, for lines that people paste; a placeholder when there is none."""
    proxies = client.request("GET", "/v1/hello").get("proxies")
    return str(proxies[0]) if isinstance(proxies, list) and proxies else "PROXY:3080"

"""How tctl reaches auth: the unix socket on auth's own machine, or an administrator's login from anywhere."""

from __future__ import annotations

import argparse
import time

from tinyport.admin import config_file
from tinyport.core.errors import AccessDenied, OperatorError, TinyportError, Unavailable
from tinyport.core.names import parse_address
from tinyport.host import profile
from tinyport.host.machine import api_socket
from tinyport.host.user_identity import UserIdentity
from tinyport.link.api import AuthClient


def connect(args: argparse.Namespace) -> AuthClient:
    """A client of the auth API for this command.

    ``-i`` and ``--proxy`` mean a login. Else ``-c`` names auth's configuration, whose data_dir has the socket. Else the
    socket of TINYPORT_CONFIG or the default file, when it is there; else the current tsh login. OperatorError,
    AccessDenied (code "login_required" or "expired") when there is none of them.
    """
    if args.identity is not None or args.proxy is not None:
        return _remote(profile.chosen(identity_file=args.identity, proxy=args.proxy))
    path = config_file.chosen_path(args.config)
    socket = None
    if path is not None:
        try:
            socket = api_socket(config_file.data_dir(path))
            here = socket.exists()
        except (OperatorError, PermissionError):
            if args.config:
                raise
            # A file of the service's that is not for this person, who may have a login.
            socket, here = None, False
        if here and socket is not None:
            return AuthClient(socket)
        if args.config:
            raise Unavailable(f"auth is not running here: there is no {socket}", hint="tinyport start --roles=auth")
    try:
        return _remote(profile.chosen(identity_file=None, proxy=None))
    except AccessDenied as error:
        if error.code != "login_required":
            raise
        raise AccessDenied(
            "no auth server on this machine, and no login",
            hint='on the auth host give "-c FILE" (or be its user); elsewhere run "tsh login --proxy HOST" first',
            code="login_required",
        ) from None


def _remote(identity: UserIdentity) -> AuthClient:
    identity.require_current(time.time())
    return AuthClient(
        parse_address(identity.proxy, profile.DEFAULT_PROXY_PORT),
        tls_cas=identity.tls_cas,
        cert_pem=identity.tls_certificate,
        key_pem=identity.tls_key,
        cluster=identity.cluster,
    )


def public_proxy(client: AuthClient) -> str | None:
    """The cluster's first public proxy address; None when no proxy has joined."""
    proxies = client.request("GET", "/v1/hello").get("proxies")
    return str(proxies[0]) if isinstance(proxies, list) and proxies else None


def auth_address(args: argparse.Namespace) -> str | None:
    """Where auth listens, for a line that a proxy's machine is told; None unless its configuration is here and says."""
    try:
        path = config_file.chosen_path(args.config)
        listen = None if path is None else config_file.read_document(path).get("auth", {}).get("listen")
        host, port = parse_address(listen if isinstance(listen, str) else "")
    except (TinyportError, OSError, AttributeError):
        return None
    return None if host in ("0.0.0.0", "::", "") or not port else f"{host}:{port}"  # noqa: S104 - compared

"""Which TLS CAs to believe before the first login: those a pin names, those of the last login, or whom the person
vouches for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tinyport.client import prompt
from tinyport.client.wrong_address import explained
from tinyport.core.errors import OperatorError, TinyportError
from tinyport.core.names import parse_address, printable
from tinyport.link.api import AuthClient, fetch_hello, pin_of
from tinyport.link.known_auth import believed, meet


def trusted_client(
    proxy: str,
    *,
    pins: Sequence[str] = (),
    known_cas: Sequence[str] = (),
    insecure: bool = False,
) -> AuthClient:
    """A client of the auth behind ``proxy`` ("host:port") whose server is checked.

    By ``pins`` when there are some, else by ``known_cas``, else by the person's word on the terminal (or none, with
    ``insecure``). OperatorError when nobody vouches for it.
    """
    address = parse_address(proxy)
    try:
        if known_cas and not pins and not insecure:
            # The last login may be from before a rotation of the CA.
            cas, hello = meet(address, known_cas, cluster=None)
            return AuthClient(address, tls_cas=cas, cluster=str(hello["cluster"]))
        hello = fetch_hello(address)
    except TinyportError as error:
        raise explained(error, address) from None
    cluster, cas = str(hello["cluster"]), [str(pem) for pem in _list(hello["tls_cas"])]
    if pins:
        return AuthClient(address, tls_cas=believed(hello, pins), cluster=cluster)
    if insecure:
        print(f"tsh: warning: believing {proxy} without a check (--insecure)", file=sys.stderr)
    elif not _vouched(proxy, cluster, cas):
        raise OperatorError(
            f"nothing vouches for the proxy at {proxy}",
            hint='give its pin with --ca-pin (the operator finds it with "tctl status"), or --insecure for a try',
            code="ca_pin",
        )
    return AuthClient(address, tls_cas=cas, cluster=cluster)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _vouched(proxy: str, cluster: str, cas: Sequence[str]) -> bool:
    if not prompt.interactive():
        return False
    print(
        f"The authenticity of the proxy at {proxy} (cluster {printable(cluster, 100)}) cannot be established.",
        *(f"The pin of its CA is {pin_of(pem)}." for pem in cas),
        sep="\n",
        file=sys.stderr,
    )
    return prompt.confirmed("Is it the one the operator told you")

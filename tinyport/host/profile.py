"""The logins of the person at this machine: one profile for each proxy, under TINYPORT_HOME (default ``~/.tsh``).

``identity.json`` is the whole truth, replaced at once; ``id``, ``id.pub`` and ``id-cert.pub`` beside it are copies for
OpenSSH. Folders are 0700, files 0600.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyport.core.certificate import Certificate, parse_public_line, public_line
from tinyport.core.errors import AccessDenied, OperatorError, PeerError
from tinyport.core.names import format_address, parse_address
from tinyport.host import user_identity
from tinyport.host.files import private_folder, read_limited, sync_folder, write_private
from tinyport.host.user_identity import UserIdentity

DEFAULT_PROXY_PORT = 3080


def home(environment: Mapping[str, str] | None = None) -> Path:
    """The profile folder; it need not exist."""
    found = (os.environ if environment is None else environment).get("TINYPORT_HOME")
    return Path(found).expanduser().absolute() if found else Path("~/.tsh").expanduser()


def proxy_address(text: str) -> str:
    """``host[:port]`` as typed → ``host:port``. OperatorError when it is not an address."""
    try:
        host, port = parse_address(text, DEFAULT_PROXY_PORT)
    except PeerError as error:
        raise OperatorError(error.message, hint=error.hint, code="usage") from None
    return format_address(host.lower(), port)


@dataclass(frozen=True)
class Profile:
    """A login: where its files are, and what it holds."""

    name: str
    folder: Path
    identity: UserIdentity

    @property
    def key_file(self) -> Path:
        return self.folder / "id"

    @property
    def certificate_file(self) -> Path:
        return self.folder / "id-cert.pub"


class Profiles:
    """The profile folder. Makes nothing before something is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def known_hosts(self) -> Path:
        """Where ``tsh config`` writes the host CAs for OpenSSH."""
        return self.folder / "known_hosts"

    def names(self) -> list[str]:
        """The profiles there are, sorted."""
        try:
            found = os.listdir(self.folder / "keys")
        except FileNotFoundError:
            return []
        return sorted(name for name in found if (self.folder / "keys" / name / "identity.json").is_file())

    def current(self) -> str | None:
        """The name of the profile in use."""
        try:
            return read_limited(self.folder / "current", 1024).decode("utf-8", "replace").strip() or None
        except FileNotFoundError:
            return None

    def load(self, proxy: str | None = None) -> Profile:
        """The profile for ``proxy`` ("host:port"), or the current one. AccessDenied (code "login_required") when there
        is none.
        """
        name = self.current() if proxy is None else _name(proxy)
        if name is None or "/" in name or not (self.folder / "keys" / name / "identity.json").is_file():
            where = f" at {proxy}" if proxy else ""
            hint = f'run "tsh login --proxy {proxy or "HOST"}"'
            raise AccessDenied(f"not logged in{where}", code="login_required", hint=hint)
        folder = self.folder / "keys" / name
        return Profile(name, folder, user_identity.load(folder / "identity.json"))

    def save(self, identity: UserIdentity) -> Profile:
        """Write a login and make it the current one."""
        private_folder(self.folder)
        private_folder(self.folder / "keys")
        profile = Profile(_name(identity.proxy), self.folder / "keys" / _name(identity.proxy), identity)
        private_folder(profile.folder)
        certificate = Certificate.decode(parse_public_line(identity.ssh_certificate))
        comment = f"{identity.user}@{identity.cluster}"
        # identity.json comes last: a login that was cut off in the middle has not happened.
        write_private(profile.key_file, identity.ssh_key.encode())
        write_private(profile.folder / "id.pub", f"{public_line(certificate.public_key, comment)}\n".encode())
        write_private(profile.certificate_file, f"{identity.ssh_certificate.strip()}\n".encode())
        user_identity.save(profile.folder / "identity.json", identity)
        write_private(self.folder / "current", f"{profile.name}\n".encode())
        return profile

    def remove(self, profile: Profile) -> None:
        """Forget a login; the next one of those that are left becomes the current one."""
        # The secrets first, in case the rest fails.
        for name in ("identity.json", "id"):
            (profile.folder / name).unlink(missing_ok=True)
        shutil.rmtree(profile.folder, ignore_errors=True)
        if self.current() == profile.name:
            left = self.names()
            if left:
                write_private(self.folder / "current", f"{left[0]}\n".encode())
            else:
                (self.folder / "current").unlink(missing_ok=True)
        sync_folder(self.folder)


def _name(proxy: str) -> str:
    host, port = parse_address(proxy, DEFAULT_PROXY_PORT)
    return f"{host.lower()}_{port}"


def chosen(
    *,
    identity_file: str | None,
    proxy: str | None,
    environment: Mapping[str, str] | None = None,
) -> UserIdentity:
    """Who the person at the command line is: ``-i FILE``, else the login for ``--proxy`` or TINYPORT_PROXY, else the
    current login. With ``-i``, ``--proxy`` says where to go instead of the file's own proxy.

    AccessDenied (code "login_required") when there is no login; whether it has expired is for the caller to ask.
    """
    env = os.environ if environment is None else environment
    wanted = proxy or env.get("TINYPORT_PROXY") or None
    address = proxy_address(wanted) if wanted else None
    if identity_file is None:
        return Profiles(home(env)).load(address).identity
    identity = user_identity.load(identity_file)
    if proxy and address:
        from dataclasses import replace

        return replace(identity, proxy=address)
    return identity

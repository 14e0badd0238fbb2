"""``tsh config``: what OpenSSH needs to know to reach the cluster's nodes by its own means."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tinyport.core.errors import OperatorError
from tinyport.core.names import parse_address
from tinyport.host.files import write_private
from tinyport.host.profile import Profile, Profiles, home, proxy_address


def run(args: argparse.Namespace) -> int:
    """Write the known hosts of every login, print the block of the chosen one."""
    if args.identity:
        raise OperatorError(
            "OpenSSH reads keys from files of their own, which an identity file is not",
            hint='log in with "tsh login", or make files with "tctl auth sign --format openssh"',
        )
    profiles = Profiles(home())
    wanted = args.proxy or os.environ.get("TINYPORT_PROXY")
    profile = profiles.load(proxy_address(wanted) if wanted else None)
    if args.cluster and args.cluster != profile.identity.cluster:
        from tinyport.client.other_clusters import named, openssh_block

        profile.identity.require_current(time.time())
        for line in openssh_block(profile, named(profile.identity, args.cluster), home()):
            print(line)
        return 0
    write_known_hosts(profiles)
    for line in block(profile, profiles.known_hosts, tsh_command()):
        print(line)
    return 0


def write_known_hosts(profiles: Profiles) -> None:
    """The host CAs of every login, for OpenSSH. A login after a rotation of the CA brings others."""
    lines: list[str] = []
    for name in profiles.names():
        host, _, port = name.rpartition("_")
        lines += known_hosts_lines(profiles.load(f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"))
    write_private(profiles.known_hosts, "".join(f"{line}\n" for line in lines).encode())


def tsh_command() -> list[str]:
    """The words that start this tsh from anywhere."""
    program = os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else shutil.which(sys.argv[0])
    if program and os.access(program, os.X_OK) and not program.endswith(".py"):
        return [program]
    return [sys.executable, "-c", "from tinyport.client.main import main; raise SystemExit(main())"]


def known_hosts_lines(profile: Profile) -> list[str]:
    """The host CAs for everything in the cluster, its proxies included (their alias is proxy.CLUSTER)."""
    cluster = profile.identity.cluster
    return [f"@cert-authority *.{cluster} {_plain(line)} {cluster}" for line in profile.identity.host_cas]


def _plain(line: str) -> str:
    """A public key line without its comment."""
    return " ".join(line.split()[:2])


def block(profile: Profile, known_hosts: Path, tsh: Sequence[str]) -> list[str]:
    """The ssh_config(5) block."""
    identity = profile.identity
    cluster = identity.cluster
    host, port = parse_address(identity.proxy)
    folder = os.environ.get("TINYPORT_HOME")
    words = ["env", f"TINYPORT_HOME={home()}", *tsh] if folder else list(tsh)
    command = " ".join(_quoted(word) for word in words)
    common = [
        f"    UserKnownHostsFile {file_word(known_hosts)}",
        "    GlobalKnownHostsFile /dev/null",
        "    StrictHostKeyChecking yes",
        f"    IdentityFile {file_word(profile.key_file)}",
        f"    CertificateFile {file_word(profile.certificate_file)}",
        "    IdentitiesOnly yes",
    ]
    proxy = [f"    HostKeyAlias proxy.{cluster}", "    ProxyCommand none", *common]
    return [
        f"# tinyport: cluster {cluster}, through {identity.proxy}. Made by tsh config; a new login needs no new block.",
        f"# Without tsh at all: ssh -J proxy.{cluster} LOGIN@NODE.{cluster}, or ssh -J {identity.proxy} ...",
        f"Host proxy.{cluster}",
        f"    HostName {host}",
        f"    Port {port}",
        *proxy,
        # The machine may well have an sshd of its own on another port, which is none of ours.
        f'Match originalhost {host} exec "test %p = {port}"',
        *proxy,
        "",
        f"# ssh LOGIN@NODE.{cluster}",
        f"Host *.{cluster}",
        *common,
        f"    ProxyCommand {command} proxy ssh --proxy {identity.proxy} %r@%h:%p",
    ]


def _quoted(word: str) -> str:
    # ssh expands % in ProxyCommand, then a shell takes the words apart.
    return shlex.quote(word).replace("%", "%%")


def file_word(path: Path) -> str:
    """A path for ssh_config(5): quoted where it has spaces, % doubled."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if any(char.isspace() for char in text) else text

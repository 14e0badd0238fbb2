"""The servers that are compared, each on a loopback port and on the servers' core: our node, stock sshd, dropbear.

All three have an Ed25519 host key and let the same Ed25519 user key in: node and sshd by the same certificate of the
same CA and with a host certificate, dropbear, which has no certificates, by the plain key.
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from bench import machine, processes
from tests.node.tiny_cluster import Cluster
from tinyport.core.certificate import certificate_line, public_line
from tinyport.core.errors import Unavailable as OutOfReach
from tinyport.core.issue import issue_user_certificate
from tinyport.core.signatures import Ed25519Key
from tinyport.node.keeper.sessions import INHERITED
from tinyport.node.monitor import status

LOGIN = getpass.getuser()
HOST = "127.0.0.1"
START_LIMIT = 30.0
# Enough for every concurrency that is tried; the defaults would refuse a part, and that is another figure.
STARTUPS = 2000

_NODE = """
import json, sys
from pathlib import Path
from tinyport.node.launcher import run
from tinyport.node.settings import NodeSettings
told = json.loads(sys.argv[1])
for name in ("data_dir", "ready_file"):
    told[name] = Path(told[name])
for name in ("server", "listen"):
    told[name] = tuple(tuple(item) if isinstance(item, list) else item for item in told[name])
run(NodeSettings(**told))
"""


class Unavailable(Exception):
    """This server is not installed here. Its rows say so."""


class Credentials:
    """One user key, one host key and their certificates, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster()
        self.user_key = Ed25519Key.generate()
        self.host_key = Ed25519Key.generate()
        now = int(time.time())
        self.certificate = issue_user_certificate(
            self.cluster.user_ca,
            public_key=self.user_key.public_blob,
            serial=7,
            nonce=os.urandom(32),
            cluster="farm",
            user="bench",
            logins=[LOGIN],
            roles=["bench"],
            traits={},
            permits=["pty", "port_forwarding"],
            now=now,
            ttl=86400,
        )
        self.host_certificate = self.cluster.host_certificate(
            self.host_key.public_blob, "0d9b0c2e-7c55-4c1a-9a3e-6c1f5a1b2c3d", "shed"
        )
        self._write("user", self.user_key.to_openssh())
        self._write("user.pub", public_line(self.user_key.public_blob).encode() + b"\n")
        self._write("user-cert.pub", certificate_line(self.certificate).encode() + b"\n")
        self._write("host", self.host_key.to_openssh())
        self._write("host.pub", public_line(self.host_key.public_blob).encode() + b"\n")
        self._write("host-cert.pub", self.host_certificate.encode() + b"\n")
        self._write("user_ca.pub", public_line(self.cluster.user_ca.public_blob).encode() + b"\n")
        hosts = [f"@cert-authority * {public_line(self.cluster.host_ca.public_blob)}"]
        self._write("known", "\n".join([*hosts, f"* {public_line(self.host_key.public_blob)}", ""]).encode())

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)

    def secret(self) -> bytes:
        """The user's private key, raw, for the wire client."""
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        key: Any = load_ssh_private_key(self.user_key.to_openssh(), None)
        raw: bytes = key.private_bytes_raw()
        return raw


class Server:
    """A server that is one command with everything below it."""

    name = ""
    certificates = True
    files = ("user", "user-cert.pub")

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return self._port

    @property
    def log(self) -> Path:
        return self.credentials.folder / f"{self.name}.log"

    def start(self) -> Server:
        """Returns when it listens. Unavailable when it is not here; SystemExit when it does not come up."""
        raise NotImplementedError

    def _run(self, argv: list[str]) -> None:
        servers, _ = machine.cores()
        # Ours hands these on to its sessions, sshd without PAM does not; and a shell with a locale starts 0.3 ms later.
        environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=machine.pinned(servers),
            )

    def _await_port(self) -> None:
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self._port)) == 0:
                    return
            if self._process is not None and self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"bench: error: {self.name} did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(START_LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def command(self, *words: str, program: str = "ssh", options: tuple[str, ...] = ()) -> list[str]:
        """The command line of OpenSSH's client that reaches this server."""
        folder = self.credentials.folder
        settings = {
            "UserKnownHostsFile": folder / "known",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": "shed",
            "IdentityFile": folder / "user",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "Port": self._port,
        }
        if not self.certificates:
            settings["HostKeyAlgorithms"] = "ssh-ed25519"
        before = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return [program, "-F", "none", *before, *options, f"{LOGIN}@{HOST}", *words]

    def asked(self, kex: str, count: int, concurrency: int) -> dict[str, Any]:
        """What ``wire_client`` is told."""
        shown = self.credentials.certificate if self.certificates else self.credentials.user_key.public_blob
        ca = self.credentials.cluster.host_ca.public_blob if self.certificates else b""
        encoded = {"key": self.credentials.secret(), "public": shown, "host_ca": ca}
        return {
            "host": HOST,
            "port": self._port,
            "user": LOGIN,
            "kex": kex,
            "count": count,
            "concurrency": concurrency,
            **{name: base64.b64encode(value).decode() for name, value in encoded.items()},
        }


class Node(Server):
    """Ours, whole: monitor, link, keeper, worker. Joined to a cluster whose auth is away."""

    name = "tinyport"

    def __init__(self, credentials: Credentials, **changes: object) -> None:
        super().__init__(credentials)
        self._data = credentials.folder / "node"
        self._changes = changes

    def start(self) -> Node:
        cluster = self.credentials.cluster
        with socket.create_server((HOST, 0)) as nobody:
            away = nobody.getsockname()[:2]
        identity = cluster.joined(self._data, away)
        role = {"name": "bench", "allow": {"logins": ["*"], "node_labels": {"*": ["*"]}}}
        role_options = {"options": {"sftp": True, "port_forwarding": True}}
        policy = cluster.policy(serial=2, roles={"bench": {**role, **role_options}})
        (self._data / "node" / "policy.json").write_text(json.dumps(policy))
        document = cluster.node_document(str(identity["uuid"]), "shed", 2)
        (self._data / "node" / "node.json").write_text(json.dumps(document))
        settings: dict[str, object] = {
            "data_dir": str(self._data),
            "nodename": "shed",
            "server": away,
            "listen": [(HOST, 0)],
            "user": "nobody" if os.geteuid() == 0 else None,
            "ready_file": str(self._data / "ready"),
            **self._changes,
        }
        self._run([sys.executable, "-c", _NODE, json.dumps(settings)])
        self._port = int(self._listening().rpartition(":")[2])
        return self

    def _listening(self) -> str:
        """Where it listens. Not from the ready file: that waits for a tunnel."""
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            try:
                return str(cast("list[str]", status.ask(self._data)["listen"])[0])
            except OutOfReach:
                time.sleep(0.05)
        raise SystemExit(f"bench: error: the node did not start: {self.log.read_text()[-2000:]}")

    def processes(self) -> dict[str, int]:
        """Its processes by name; the last of a name."""
        return {processes.name(pid): pid for pid in processes.tree(self.pid)}


class StockSshd(Server):
    """The machine's own sshd."""

    name = "sshd"

    def start(self) -> StockSshd:
        sshd = machine.find("sshd")
        if sshd is None:
            raise Unavailable("sshd is not installed (apt-get install openssh-server)")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with socket.create_server((HOST, 0)) as free:
            self._port = free.getsockname()[1]
        folder = self.credentials.folder
        sftp = next((path for path in _SFTP_SERVERS if Path(path).exists()), "internal-sftp")
        lines = [
            f"Port {self._port}",
            f"ListenAddress {HOST}",
            f"HostKey {folder}/host",
            f"HostCertificate {folder}/host-cert.pub",
            f"TrustedUserCAKeys {folder}/user_ca.pub",
            "AuthorizedKeysFile none",
            "PidFile none",
            "StrictModes no",
            # PAM is no part of what is compared, and would be to sshd's disadvantage.
            "UsePAM no",
            "PermitRootLogin yes",
            "PrintMotd no",
            "LogLevel INFO",
            f"MaxStartups {STARTUPS}",
            "MaxSessions 1000",
            f"Subsystem sftp {sftp}",
        ]
        config = folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        self._run([sshd, "-D", "-e", "-f", str(config)])
        self._await_port()
        return self


_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


class Dropbear(Server):
    """dropbear, with the plain keys: it has no certificates."""

    name = "dropbear"
    certificates = False

    def start(self) -> Dropbear:
        program, convert = machine.find("dropbear"), shutil.which("dropbearconvert")
        if program is None or convert is None:
            raise Unavailable("dropbear is not installed (apt-get install dropbear-bin)")
        if os.geteuid() != 0:
            raise Unavailable("dropbear reads the user's own authorized_keys unless it runs as root here")
        folder = self.credentials.folder
        subprocess.run(
            [convert, "openssh", "dropbear", str(folder / "host"), str(folder / "host.dropbear")],
            check=True,
            capture_output=True,
        )
        with socket.create_server((HOST, 0)) as free:
            self._port = free.getsockname()[1]
        # It reads ~/.ssh/authorized_keys alone: in a mount namespace of its own, so that nobody's own is touched.
        home = folder / "dropbear-home"
        (home / ".ssh").mkdir(0o700, parents=True, exist_ok=True)
        (home / ".ssh" / "authorized_keys").touch(0o600)
        (home / ".ssh" / "authorized_keys").write_bytes((folder / "user.pub").read_bytes())
        words = [program, "-F", "-E", "-s", "-r", str(folder / "host.dropbear"), "-p", f"{HOST}:{self._port}"]
        words += ["-P", str(folder / "dropbear.pid")]
        mounted = f"mount --bind {shlex.quote(str(home))} {shlex.quote(str(Path.home()))} && exec {shlex.join(words)}"
        self._run(["unshare", "--mount", "sh", "-c", mounted])
        self._await_port()
        return self

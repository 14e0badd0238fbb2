"""The peer: the machine's own sshd on a loopback port, with Ed25519 keys."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path


class StockSshd:
    """A running sshd; ``command(*words)`` is the ssh command line that reaches it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> StockSshd:
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
        if sshd is None:
            raise SystemExit("bench: error: sshd is not installed (apt-get install openssh-server)")
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._folder / key)]
            subprocess.run(words, check=True)
        (self._folder / "authorized").write_bytes((self._folder / "user.pub").read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        config = self._folder / "sshd_config"
        config.write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {self._folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self._folder}/authorized\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        )
        log = (self._folder / "sshd.log").open("wb")
        self._process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=log)
        log.close()
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            time.sleep(0.05)
        raise SystemExit(f"bench: error: sshd did not start: {(self._folder / 'sshd.log').read_text()}")

    def command(self, *words: str) -> list[str]:
        options = ["-F", "none", "-i", str(self._folder / "user"), "-p", str(self._port), "-o", "BatchMode=yes"]
        known = ["-o", f"UserKnownHostsFile={self._folder}/known", "-o", "StrictHostKeyChecking=accept-new"]
        return ["ssh", *options, *known, f"{getpass.getuser()}@127.0.0.1", *words]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

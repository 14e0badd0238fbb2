"""Keys that are encrypted on auth's disk, as an operator meets them: a command, a credential, a backup."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port

from .cluster import BIN, LIMIT, SLOWNESS, wait_for


class Auth:
    """An auth server as a service of its own, whose credentials are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = folder / "credentials"
        self.credentials.mkdir()
        self.config = folder / "tinyport.toml"
        self.config.write_text(
            f'[tinyport]\ndata_dir = "{folder}/data"\n'
            f'[auth]\ncluster_name = "farm.example"\nlisten = "127.0.0.1:{free_port()}"\n'
        )
        self._service: subprocess.Popen[bytes] | None = None

    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "CREDENTIALS_DIRECTORY": str(self.credentials)}

    def start(self) -> None:
        words = [str(BIN / "tinyport"), "start", "-c", str(self.config)]
        with (self.folder / "auth.log").open("ab") as log:
            self._service = subprocess.Popen(words, stdout=log, stderr=log, env=self.env())
        wait_for("auth to serve", lambda: self.tctl("status").returncode == 0)

    def fails(self) -> str:
        words = [str(BIN / "tinyport"), "start", "-c", str(self.config)]
        done = subprocess.run(words, capture_output=True, env=self.env(), timeout=LIMIT, check=False)
        assert done.returncode == 1
        return done.stderr.decode()

    def stop(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            service.terminate()
            assert service.wait(30 * SLOWNESS) == 0

    def tctl(self, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [str(BIN / "tctl"), "-c", str(self.config), *map(str, words)]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=self.env(), timeout=LIMIT, check=False
        )

    def holds_a_key_in_clear(self) -> bool:
        files = (self.folder / "data" / "auth").iterdir()
        return any(b"PRIVATE KEY" in path.read_bytes() for path in files if path.is_file())


@pytest.fixture
def auth(tmp_path: Path) -> Auth:
    return Auth(tmp_path)


def test_a_cluster_gets_a_passphrase_and_a_backup_keeps_it(auth: Auth, tmp_path: Path) -> None:
    auth.start()
    try:
        pins = auth.tctl("auth", "export", "--type", "tls", "--fingerprint").stdout
        passphrase = tmp_path / "passphrase"
        passphrase.write_text("a passphrase of many words\n")
        running = auth.tctl("auth", "encrypt-keys", "--passphrase-file", passphrase)
        assert (running.returncode, b"another auth server is using" in running.stderr) == (1, True), running
        auth.stop()
        assert auth.holds_a_key_in_clear()
        nobody = auth.tctl("auth", "encrypt-keys")
        assert (nobody.returncode, b"--passphrase-file" in nobody.stderr) == (1, True), nobody
        done = auth.tctl("auth", "encrypt-keys", "--passphrase-file", passphrase)
        assert done.returncode == 0, done
        assert not auth.holds_a_key_in_clear()

        refused = auth.fails()
        assert "there is no passphrase" in refused
        assert "LoadCredential=tinyport.key-passphrase" in refused
        credential = auth.credentials / "tinyport.key-passphrase"
        credential.write_text("another passphrase of words\n")
        refused = auth.fails()
        assert "not the one" in refused
        assert "another passphrase" not in refused
        credential.write_bytes(passphrase.read_bytes())
        auth.start()
        assert auth.tctl("auth", "export", "--type", "tls", "--fingerprint").stdout == pins
        assert auth.tctl("auth", "rotate", "--type", "all", "--phase", "init").returncode == 0
        assert not auth.holds_a_key_in_clear()
        backup = tmp_path / "farm.db"
        assert auth.tctl("backup", backup).returncode == 0
        assert b"PRIVATE KEY" not in backup.read_bytes()
        auth.stop()
        restored = auth.tctl("restore", backup)
        assert restored.returncode == 0, restored
        auth.start()
        auth.stop()

        again = auth.tctl("auth", "decrypt-keys", "--passphrase-file", passphrase)
        assert again.returncode == 0, again
        credential.unlink()
        auth.start()
        assert pins.split()[0] in auth.tctl("auth", "export", "--type", "tls", "--fingerprint").stdout
    finally:
        auth.stop()

"""Clients that are not OpenSSH: paramiko with a certificate; dropbear's, which knows no certificates and must be
told no.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import paramiko

from tests.conftest import need_program
from tests.interop.conftest import Peer


def test_paramiko_with_a_certificate(peer: Peer) -> None:
    key = paramiko.Ed25519Key.from_private_key_file(str(peer.key))
    key.load_certificate(str(peer.certificate))
    client = paramiko.SSHClient()
    # Paramiko does not read @cert-authority lines; OpenSSH's tests hold the host certificate to account.
    client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
    data = os.urandom(500_000)
    try:
        client.connect(
            peer.host,
            int(peer.port),
            peer.cluster.login_name,
            pkey=key,
            allow_agent=False,
            look_for_keys=False,
            timeout=30,
        )
        stdin, stdout, _ = client.exec_command("cat; exit 5", timeout=60)
        stdin.write(data)
        stdin.channel.shutdown_write()
        assert stdout.read() == data
        assert stdout.channel.recv_exit_status() == 5
        with client.open_sftp() as sftp:
            assert sftp.stat("/").st_mode is not None
    finally:
        client.close()


def test_dropbear_exchanges_keys_and_is_refused(peer: Peer, tmp_path: Path) -> None:
    need_program("dbclient")
    key = tmp_path / "key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", str(key)], check=True, capture_output=True)
    words = ["dbclient", "-y", "-y", "-i", str(key), "-p", peer.port, f"{peer.cluster.login_name}@{peer.host}", "true"]
    done = subprocess.run(
        words, capture_output=True, stdin=subprocess.DEVNULL, env=peer.cluster.env(), timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    # It got as far as offering its key: its guess at the key exchange and our host key were good.
    assert b"No auth methods could be used" in done.stderr

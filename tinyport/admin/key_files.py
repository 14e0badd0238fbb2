"""A key and its certificate as OpenSSH keeps them."""

from __future__ import annotations

from pathlib import Path

from tinyport.core.certificate import public_line
from tinyport.host.files import write_private, write_public


def write_key_files(output: Path, key: str, blob: bytes, certificate: str) -> list[Path]:
    """Write a private key (OpenSSH's PEM), its public blob and certificate (line) under the names that ssh-keygen
    uses: ``output``, ``.pub`` and ``-cert.pub``. Returns them."""
    public = output.with_name(output.name + ".pub")
    certified = output.with_name(output.name + "-cert.pub")
    write_private(output, key.encode())
    write_public(public, public_line(blob).encode() + b"\n")
    write_public(certified, certificate.strip().encode() + b"\n")
    return [output, public, certified]

"""``tctl auth encrypt-keys`` and ``decrypt-keys``: whether auth's disk alone is the cluster."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from tinyport.admin import config_file
from tinyport.core.errors import OperatorError
from tinyport.host.console import CommandLine, emit, output_options
from tinyport.start import decrypt_auth_keys, encrypt_auth_keys


def add_commands(auth: CommandLine) -> None:
    """Both, below ``tctl auth``."""
    encrypt = auth.command(
        "encrypt-keys",
        _encrypt,
        help="encrypt the cluster's private keys with a passphrase; auth must not be running",
        description="Encrypt the CAs' private keys in auth's database, or give them another passphrase. Auth then "
        "needs the passphrase at each start: LoadCredential=tinyport.key-passphrase, or auth.key_passphrase. Backups "
        "from before hold the keys as they were.",
        examples=[
            "systemctl stop tinyport-server",
            "tctl -c /etc/tinyport/tinyport.toml auth encrypt-keys --passphrase-file /root/passphrase",
            "tctl auth encrypt-keys --passphrase-file new --old-passphrase-file old",
        ],
        parents=[output_options()],
    )
    encrypt.add_argument("--passphrase-file", metavar="FILE", help="default: asked for on the terminal, twice")
    encrypt.add_argument("--old-passphrase-file", metavar="FILE", help="what they are encrypted with, to change it")
    decrypt = auth.command(
        "decrypt-keys",
        _decrypt,
        help="have the cluster's private keys in clear again; auth must not be running",
        examples=["tctl -c /etc/tinyport/tinyport.toml auth decrypt-keys --passphrase-file /root/passphrase"],
        parents=[output_options()],
    )
    decrypt.add_argument("--passphrase-file", metavar="FILE", help="default: asked for on the terminal")


def _encrypt(args: argparse.Namespace) -> int:
    folder = _data_dir(args)
    old = None if args.old_passphrase_file is None else _read(args.old_passphrase_file)
    new = _asked_twice() if args.passphrase_file is None else _read(args.passphrase_file)
    count = encrypt_auth_keys(folder, new, old)
    emit(args, {"encrypted": count}, lambda: [f"{count} keys are encrypted; without the passphrase they are lost"])
    _mention_owner(folder)
    return 0


def _decrypt(args: argparse.Namespace) -> int:
    folder = _data_dir(args)
    count = decrypt_auth_keys(folder, _asked() if args.passphrase_file is None else _read(args.passphrase_file))
    emit(args, {"decrypted": count}, lambda: [f"{count} keys are in clear again"])
    _mention_owner(folder)
    return 0


def _data_dir(args: argparse.Namespace) -> Path:
    path = config_file.chosen_path(args.config)
    if path is None:
        raise OperatorError("whose keys?", hint="give auth's configuration: tctl -c FILE auth ...")
    return Path(config_file.data_dir(path))


def _read(path: str) -> str:
    try:
        # As auth reads it: what an editor puts at the end is no part of it.
        return config_file.read_secret(path).strip()
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _asked(question: str = "passphrase: ") -> str:
    if not sys.stdin.isatty():
        raise OperatorError("there is no terminal to ask on", hint="give --passphrase-file FILE")
    return getpass.getpass(question).strip()


def _asked_twice() -> str:
    first = _asked("new passphrase: ")
    if _asked("again: ") != first:
        raise OperatorError("the two passphrases differ; nothing was changed")
    return first


def _mention_owner(folder: Path) -> None:
    if os.geteuid() == 0 and (folder / "auth").stat().st_uid != 0:
        print("tctl: hint: see that the files still belong to whoever auth runs as", file=sys.stderr)

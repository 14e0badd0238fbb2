"""The sftp server's command line for one session: from the grant, and from a force-command as sshd understands it."""

from __future__ import annotations

from tinyport.core.access import Grant
from tinyport.core.errors import AccessDenied
from tinyport.core.names import printable
from tinyport.host.accounts import Account

#: force-command of a certificate that allows file transfer alone (sshd_config(5), internal-sftp)
INTERNAL_SFTP = "internal-sftp"
# sftp-server(8). Of these -e, -f and -l say where it logs, which is the keeper's business here.
_OPTIONS = "d:ef:l:P:p:Ru:"


def is_internal_sftp(command: str) -> bool:
    """Is a force-command our own server, with or without options?"""
    return command.split(maxsplit=1)[:1] == [INTERNAL_SFTP]


def options(grant: Grant, account: Account, command: str | None) -> list[str]:
    """What the server is told beside who it is. AccessDenied when the grant or its force-command cannot be obeyed."""
    terms = grant.sftp
    if terms.refusal:
        raise AccessDenied(terms.refusal, code="sftp_root")
    words: list[str] = []
    if terms.root is not None:
        if account.uid == 0:
            raise AccessDenied(f"root cannot be confined to {printable(terms.root)}", code="sftp_root")
        words += ["--root", terms.root]
    if terms.read_only:
        words.append("--read-only")
    return words if command is None else words + _of_command(command, account)


def _of_command(command: str, account: Account) -> list[str]:
    # Few have one, and a keeper that loads this has 0.2 MB more.
    import getopt

    from tinyport.node.sftp.requests import NAMES

    words: list[str] = []
    try:
        # sshd splits at white space and knows no quotes.
        found, rest = getopt.getopt(command.split()[1:], _OPTIONS)
    except getopt.GetoptError as error:
        raise _refusal(command, error.msg) from None
    if rest:
        raise _refusal(command, f"{rest[0]} is not an option")
    for option, value in found:
        if option == "-R":
            words.append("--read-only")
        elif option == "-d":
            words += ["--folder", _folder(value, account)]
        elif option == "-u":
            if not value.isascii() or not value.isdigit() or len(value) > 4 or set(value) & set("89"):
                raise _refusal(command, f"{value} is no umask")
            if int(value, 8) > 0o777:
                raise _refusal(command, f"{value} is no umask")
            words += ["--umask", value]
        elif option in ("-p", "-P"):
            if unknown := set(value.split(",")) - NAMES:
                raise _refusal(command, f"there is no request {min(unknown)}")
            words += ["--allow" if option == "-p" else "--deny", value]
    return words


def _folder(value: str, account: Account) -> str:
    """``-d``: ``~`` and sshd's %d (home), %u (name), %U (uid), %% filled in."""
    if value == "~" or value.startswith("~/"):
        value = f"%d{value[1:]}"
    filled = {"d": account.home, "u": account.name, "U": str(account.uid), "%": "%"}
    first, *others = value.replace("%%", "\0").split("%")
    made = first + "".join(filled.get(other[:1], f"%{other[:1]}") + other[1:] for other in others)
    return made.replace("\0", "%")


def _refusal(command: str, reason: str) -> AccessDenied:
    message = "the certificate's force-command cannot be obeyed"
    return AccessDenied(message, detail=f"{printable(command)}: {printable(reason)}", code="option")

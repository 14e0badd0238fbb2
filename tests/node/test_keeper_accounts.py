"""Lookups that do not answer: whoever needs one waits, nobody else does, and it has an end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.proofs import b64
from tests.node.session_harness import LOGIN, Rig, wait_for
from tests.security.hostile import HostileRig
from tinyport.core.errors import AccessDenied, TinyportError, Unavailable
from tinyport.host import accounts, pty
from tinyport.host.accounts import Account, lookup
from tinyport.host.logging_line import Log
from tinyport.node.keeper import accounts as keeper_accounts
from tinyport.node.keeper.accounts import MAX_LOOKUPS, Accounts, NotFoundYet
from tinyport.node.keeper.keeper import MAX_WAITING_REQUESTS
from tinyport.node.loop import Loop
from tinyport.node.python_process import package_root, search_path

Lookup = Callable[[str], Account]


class Desk:
    """A loop with accounts, and who has been called."""

    def __init__(self, lookup: Lookup, limit: float = 30.0) -> None:
        self.loop = Loop()
        self.loop.watch_children()
        self.called: list[str] = []
        self._log = Log("test", descriptor=os.open(os.devnull, os.O_WRONLY))
        self.accounts = Accounts(self.loop, self._log, lookup=lookup, limit=limit)

    def ask(self, login: str, times: int = 1) -> Account | TinyportError:
        """Ask, wait, ask again."""
        with pytest.raises(NotFoundYet):
            self.accounts.find(login)
        before = len(self.called)
        for _ in range(times):
            self.accounts.after(login, lambda: self._call(login, before + times))
        self.loop._running = True
        self.loop.run()
        return self.known(login)

    def known(self, login: str) -> Account | TinyportError:
        try:
            return self.accounts.find(login)
        except TinyportError as error:
            return error

    def _call(self, login: str, last: int) -> None:
        self.called.append(login)
        if len(self.called) == last:
            self.loop.stop()


@pytest.fixture
def desk_for() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(lookup: Lookup, **more: float) -> Desk:
        made.append(Desk(lookup, **more))
        return made[-1]

    yield make
    for desk in made:
        desk.loop.close()


def for_ever(login: str) -> Account:
    signal.pause()
    raise AssertionError("nothing ends it but its own end")


def dies(login: str) -> Account:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


def speaks_without_end(login: str) -> Account:
    return Account(login * 2**20, 1, 1, (1,), "/", "/bin/sh")


def test_who_it_is(desk_for: Callable[..., Desk]) -> None:
    desk = desk_for(lookup)
    assert desk.ask(LOGIN, times=3) == lookup(LOGIN)
    assert desk.called == [LOGIN] * 3


def test_nobody(desk_for: Callable[..., Desk]) -> None:
    found = desk_for(lookup).ask("no-such-account")
    assert isinstance(found, AccessDenied)
    assert "there is no account no-such-account" in found.message


def test_names_need_not_be_text(desk_for: Callable[..., Desk]) -> None:
    odd = Account("a\udcff", 7, 7, (7, 8), "/home/\udcff", "/bin/sh")
    assert desk_for(lambda login: odd).ask("a") == odd


@pytest.mark.parametrize("what", [for_ever, dies, speaks_without_end])
def test_what_does_not_answer(desk_for: Callable[..., Desk], what: Lookup) -> None:
    desk = desk_for(what, limit=0.05 if what is for_ever else 30.0)
    found = desk.ask("slow")
    assert isinstance(found, Unavailable)
    assert found.message == "this machine cannot find out who slow is; try again later"
    # Those who come now hear it at once; and no process stays.
    assert isinstance(desk.known("slow"), Unavailable)
    wait_for("the process to end", _no_children(desk))


def _no_children(desk: Desk) -> Callable[[], bool]:
    def looked() -> bool:
        desk.loop._reap()
        return not desk.loop._children

    return looked


def test_one_process_for_one_login_and_so_many_in_all(desk_for: Callable[..., Desk]) -> None:
    desk = desk_for(for_ever)
    for number in range(MAX_LOOKUPS):
        for _ in range(3):
            with pytest.raises(NotFoundYet):
                desk.accounts.find(f"slow{number}")
            desk.accounts.after(f"slow{number}", lambda: None)
    assert len(desk.loop._children) == MAX_LOOKUPS
    assert isinstance(desk.known("another"), Unavailable)
    for pid in list(desk.loop._children):
        os.kill(pid, signal.SIGKILL)
    wait_for("the processes to end", _no_children(desk))


def test_no_process_left(desk_for: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise BlockingIOError("no process left")

    monkeypatch.setattr(os, "fork", none)
    assert isinstance(desk_for(lookup).ask(LOGIN), Unavailable)


def test_a_local_change_counts_at_once(
    desk_for: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("a")
    monkeypatch.setattr(keeper_accounts, "_LOCAL", (str(passwd),))
    desk = desk_for(lookup)
    assert isinstance(desk.ask("no-such-account"), AccessDenied)
    assert isinstance(desk.known("no-such-account"), AccessDenied)
    passwd.write_text("an account more")
    assert isinstance(desk.ask("no-such-account"), AccessDenied)


def test_what_was_known_grows_old(desk_for: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_accounts, "FRESH", 0.0)
    desk = desk_for(lookup)
    with pytest.raises(NotFoundYet):
        desk.ask(LOGIN)


def test_nothing_else_of_the_keeper_asks_who_somebody_is() -> None:
    """What may hang in NSS hangs in a process of its own."""
    node = Path(keeper_accounts.__file__).parents[1]
    found = [*(node / "keeper").glob("*.py"), *(node / "session").glob("*.py")]
    assert node / "session" / "holder.py" in found
    for path in (*found, Path(pty.__file__)):
        words = set(path.read_text().split())
        assert not words & {"pwd", "grp"}, path


# ---------------------------------------------------------------------- the keeper

#: stands before the real ``tinyport.host.accounts``: a login whose directory does not answer
_HANGS = """
import os
{source}
_real = lookup

def lookup(login):
    if login == "hangs":
        with open({mark!r}, "a"):
            pass
        while not os.path.exists({go!r}):
            __import__("time").sleep(0.01)
        raise AccessDenied("there is no account hangs on this machine", code="account")
    return _real(login)
"""


def hanging(folder: Path) -> list[str]:
    """Where a keeper finds modules with such an ``accounts``."""
    overlay = folder / "hanging"
    for package in ("tinyport", "tinyport/host"):
        (overlay / package).mkdir(parents=True)
        (overlay / package / "__init__.py").write_text(f"__path__.append({f'{package_root()}/{package}'!r})\n")
    real = Path(accounts.__file__).read_text().replace("from __future__ import annotations", "")
    (overlay / "tinyport/host/accounts.py").write_text(
        _HANGS.format(source=real, mark=str(folder / "asked"), go=str(folder / "go"))
    )
    return [str(overlay), *search_path()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.keeper_path = hanging(tmp_path)
    made.start()
    made.give_certificate(logins=[LOGIN, "hangs"])
    yield made
    (tmp_path / "go").touch()
    made.stop()


def test_a_worker_that_asks_again_and_again_meanwhile(tmp_path: Path) -> None:
    """Requests that wait are held in memory: few of a connection, and the others hear so at once."""
    rig = HostileRig(tmp_path)
    rig.keeper_path = hanging(tmp_path)
    rig.start()
    try:
        worker, number = rig.visited()
        worker.settle()
        worker.kex(number)
        blob = rig.authority.certificate(rig.user_key.public_blob, logins=["hangs"])
        query = {"op": "query", "conn": number, "user": "hangs", "certificate": b64(blob)}
        for identifier in range(1000, 1000 + 3 * MAX_WAITING_REQUESTS):
            worker.say({**query, "id": identifier})
        for _ in range(2 * MAX_WAITING_REQUESTS):
            message = worker.hear()
            assert message is not None
            assert "too many requests" in message["message"]
        (tmp_path / "go").touch()
        for _ in range(MAX_WAITING_REQUESTS):
            message = worker.hear()
            assert message is not None
            assert "there is no account hangs" in message["message"]
        assert rig.nobody_was_become()
    finally:
        (tmp_path / "go").touch()
        rig.stop()


def test_a_directory_that_hangs_holds_up_its_own_people_alone(rig: Rig, tmp_path: Path) -> None:
    with rig.popen("cat") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"before\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"before\n"
        command = rig.command("true", login="hangs")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as waits:
            wait_for("the lookup", (tmp_path / "asked").exists)
            # Somebody else signs in, a session goes on, and another command starts in it.
            assert rig.ssh("echo in").stdout == b"in\n"
            running.stdin.write(b"meanwhile\n")
            running.stdin.flush()
            assert running.stdout.readline() == b"meanwhile\n"
            assert waits.poll() is None
            (tmp_path / "go").touch()
            assert b"there is no account hangs" in waits.communicate()[1]
        running.communicate(b"")


def test_who_leaves_while_a_lookup_hangs(rig: Rig, tmp_path: Path) -> None:
    """Its answer is for a connection that is gone."""
    waits = subprocess.Popen(rig.command("true", login="hangs"), stdin=subprocess.DEVNULL)
    wait_for("the lookup", (tmp_path / "asked").exists)
    waits.kill()
    waits.wait()
    (tmp_path / "go").touch()
    assert rig.ssh("echo in").stdout == b"in\n"
    assert len(rig.workers()) == 1
    assert "a worker is ended" not in rig.log()
    assert "Traceback" not in rig.log()

"""Each request of SFTP version 3 and of OpenSSH's extensions, as its server answers it, and what is no request."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.node.sftp_client import Client, number, offset
from tinyport.node.sftp import owners as sftp_owners
from tinyport.node.sftp import wire as w
from tinyport.node.sftp.handles import MAX_HANDLES


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client(tmp_path) as made:
        yield made


def test_version_3_rename_replaces_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert client.status(w.RENAME, client.path("a") + client.path("b")) == w.FAILURE
    assert (tmp_path / "b").read_text() == "b"
    extension = w.string(b"posix-rename@openssh.com")
    assert client.status(w.EXTENDED, extension + client.path("a") + client.path("b")) == w.OK
    assert (tmp_path / "b").read_text() == "a"


def test_appending_goes_to_the_end(client: Client, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one ")
    handle = client.open("log", w.FLAG_WRITE | w.FLAG_APPEND)
    assert client.status(w.WRITE, handle + offset(0) + w.string(b"two")) == w.OK
    assert (tmp_path / "log").read_bytes() == b"one two"


def test_reading_past_the_end_is_the_end(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    handle = client.open("f", w.FLAG_READ)
    assert client.ask(w.READ, handle + offset(3) + (100).to_bytes(4, "big")) == (w.DATA, w.string(b"45"))
    assert client.status(w.READ, handle + offset(5) + (100).to_bytes(4, "big")) == w.EOF
    assert client.status(w.READ, handle + offset(2**64 - 1) + (1).to_bytes(4, "big")) == w.BAD_MESSAGE


def test_handles_are_bounded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for _ in range(MAX_HANDLES):
        client.open("f", w.FLAG_READ)
    assert client.status(w.OPENDIR, client.path(".")) == w.FAILURE


def test_a_closed_handle_is_none(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    handle = client.open("f", w.FLAG_READ)
    assert client.status(w.CLOSE, handle) == w.OK
    for kind in (w.CLOSE, w.FSTAT):
        assert client.status(kind, handle) == w.BAD_MESSAGE


def test_read_only_changes_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    careful = Client(tmp_path, read_only=True)
    for kind, body in (
        (w.REMOVE, client.path("f")),
        (w.MKDIR, client.path("d") + w.NO_ATTRIBUTES),
        (w.SETSTAT, client.path("f") + w.NO_ATTRIBUTES),
        (w.OPEN, client.path("g") + (w.FLAG_READ | w.FLAG_CREATE).to_bytes(4, "big") + w.NO_ATTRIBUTES),
        (w.OPEN, client.path("f") + (w.FLAG_READ | w.FLAG_TRUNCATE).to_bytes(4, "big") + w.NO_ATTRIBUTES),
        (w.EXTENDED, w.string(b"posix-rename@openssh.com") + client.path("f") + client.path("g")),
    ):
        assert careful.status(kind, body) == w.PERMISSION_DENIED
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"x"


def test_a_fifo_does_not_hang_the_connection(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    client.open("fifo", w.FLAG_READ)


KINDS = st.one_of(st.sampled_from([*range(1, 21), w.EXTENDED, 99]), st.integers(0, 255))
NAMES = st.sampled_from(
    [b"posix-rename@openssh.com", b"copy-data", b"limits@openssh.com", b"users-groups-by-id@openssh.com"]
)


@given(st.lists(st.tuples(KINDS, st.one_of(st.binary(max_size=64), NAMES.map(w.string))), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_request_gets_one_answer(tmp_path: Path, requests: list[tuple[int, bytes]]) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        # Read-only: a random path is an absolute one sooner or later, and this may be root's machine.
        with Client(tmp_path, read_only=True) as client:
            for kind, body in requests:
                client.ask(kind, body)
    finally:
        os.chdir(before)


def attributes(**wanted: int) -> bytes:
    """ATTRS with size, uid and gid, permissions, and times, where they are given."""
    flags, body = 0, b""
    if "size" in wanted:
        flags, body = flags | w.ATTR_SIZE, body + offset(wanted["size"])
    if "uid" in wanted:
        flags, body = flags | w.ATTR_OWNER, body + number(wanted["uid"]) + number(wanted["gid"])
    if "mode" in wanted:
        flags, body = flags | w.ATTR_PERMISSIONS, body + number(wanted["mode"])
    if "mtime" in wanted:
        flags, body = flags | w.ATTR_TIMES, body + number(wanted.get("atime", 0)) + number(wanted["mtime"])
    return number(flags) + body


def names_of(client: Client, folder: str = ".") -> list[list[bytes]]:
    """The names of a folder, as they come in answers."""
    kind, handle = client.ask(w.OPENDIR, client.path(folder))
    assert kind == w.HANDLE
    found = []
    while (answer := client.ask(w.READDIR, handle))[0] == w.NAME:
        found.append([name for name, _ in client.names(answer)])
    assert answer == (w.STATUS, number(w.EOF) + w.string(b"End of file") + w.string(b"en"))
    assert client.status(w.CLOSE, handle) == w.OK
    return found


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        (w.FLAG_WRITE, b"12345", b"xx345"),
        (w.FLAG_WRITE | w.FLAG_TRUNCATE, b"12345", b"xx"),
        (w.FLAG_WRITE | w.FLAG_APPEND, b"12345", b"12345xx"),
        (w.FLAG_WRITE | w.FLAG_CREATE, None, b"xx"),
        (w.FLAG_READ | w.FLAG_WRITE | w.FLAG_CREATE | w.FLAG_EXCLUSIVE, None, b"xx"),
    ],
)
def test_how_a_file_is_opened(client: Client, tmp_path: Path, flags: int, before: bytes | None, after: bytes) -> None:
    if before is not None:
        (tmp_path / "f").write_bytes(before)
    handle = client.open("f", flags)
    assert client.status(w.WRITE, handle + offset(0) + w.string(b"xx")) == w.OK
    assert client.status(w.CLOSE, handle) == w.OK
    assert (tmp_path / "f").read_bytes() == after


@pytest.mark.parametrize(
    ("name", "flags", "code", "text"),
    [
        ("none", w.FLAG_READ, w.NO_SUCH_FILE, b"No such file"),
        ("f/below", w.FLAG_READ, w.NO_SUCH_FILE, b"No such file"),
        ("f", w.FLAG_WRITE | w.FLAG_CREATE | w.FLAG_EXCLUSIVE, w.FAILURE, b"File exists"),
        (".", w.FLAG_WRITE, w.FAILURE, b"Is a directory"),
        ("n" * 300, w.FLAG_READ, w.BAD_MESSAGE, os.strerror(errno.ENAMETOOLONG).encode()),
        ("n/" * 3000, w.FLAG_READ, w.BAD_MESSAGE, os.strerror(errno.ENAMETOOLONG).encode()),
        ("a\0b", w.FLAG_READ, w.BAD_MESSAGE, b"Bad message"),
    ],
)
def test_what_cannot_be_opened(client: Client, tmp_path: Path, name: str, flags: int, code: int, text: bytes) -> None:
    (tmp_path / "f").touch()
    assert client.told(w.OPEN, client.path(name) + number(flags) + w.NO_ATTRIBUTES) == (code, text)


def test_a_full_disk_is_said(client: Client) -> None:
    handle = client.ask(w.OPEN, w.string(b"/dev/full") + number(w.FLAG_WRITE) + w.NO_ATTRIBUTES)[1]
    body = handle + offset(0) + w.string(b"x")
    assert client.told(w.WRITE, body) == (w.FAILURE, b"No space left on device")


def test_new_files_have_the_wanted_mode_less_the_umask(client: Client, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        client.open("plain", w.FLAG_WRITE | w.FLAG_CREATE)
        client.open("wanted", w.FLAG_WRITE | w.FLAG_CREATE, attributes(mode=0o100711))
        assert client.status(w.MKDIR, client.path("d") + attributes(mode=0o40777)) == w.OK
    finally:
        os.umask(before)
    found = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "wanted", "d")}
    assert found == {"plain": 0o640, "wanted": 0o710, "d": 0o750}


def test_a_read_gives_what_there_is_and_never_more_than_a_packet(client: Client, tmp_path: Path) -> None:
    data = os.urandom(w.MAX_DATA + 10)
    (tmp_path / "f").write_bytes(data)
    handle = client.open("f", w.FLAG_READ)
    assert client.ask(w.READ, handle + offset(0) + number(2**32 - 1)) == (w.DATA, w.string(data[: w.MAX_DATA]))
    # A shorter one after it, out of the same buffer.
    assert client.ask(w.READ, handle + offset(7) + number(3)) == (w.DATA, w.string(data[7:10]))
    assert client.ask(w.READ, handle + offset(0) + number(0)) == (w.DATA, w.string(b""))


def test_a_handle_is_a_files_or_a_folders(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    file, folder = client.open("f", w.FLAG_READ), client.ask(w.OPENDIR, client.path("."))[1]
    assert client.status(w.READDIR, file) == w.BAD_MESSAGE
    assert client.status(w.READ, folder + offset(0) + number(1)) == w.BAD_MESSAGE
    assert client.status(w.WRITE, folder + offset(0) + w.string(b"x")) == w.BAD_MESSAGE
    assert client.ask(w.FSTAT, folder)[0] == w.ATTRS


def test_a_program_cannot_be_written_into_this_process(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # As any user but root. Where the keeper became the user, the kernel says no by itself.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    careful = Client(Path("/"))
    for path in (b"/proc/self/mem", b"/proc/thread-self/mem"):
        body = w.string(path) + number(w.FLAG_READ | w.FLAG_WRITE) + w.NO_ATTRIBUTES
        assert careful.status(w.OPEN, body) == w.PERMISSION_DENIED


# ---------------------------------------------------------------------------- attributes


def test_all_attributes_at_once(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    wanted = attributes(size=3, uid=os.getuid(), gid=os.getgid(), mode=0o4711, atime=5, mtime=4_000_000_000)
    assert client.status(w.SETSTAT, client.path("f") + wanted) == w.OK
    found = file.stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (3, 0o4711)
    assert (found.st_atime, found.st_mtime) == (5, 4_000_000_000)
    handle = client.open("f", w.FLAG_WRITE)
    assert client.status(w.FSETSTAT, handle + attributes(size=9, mode=0o600, mtime=7)) == w.OK
    found = file.stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime) == (9, 0o600, 7)
    packet = w.Packet(client.ask(w.FSTAT, handle)[1])
    assert (packet.uint32(), packet.uint64()) == (15, 9)
    assert (packet.uint32(), packet.uint32(), packet.uint32()) == (os.getuid(), os.getgid(), 0o100600)


def test_what_can_be_set_is_set_when_something_cannot(client: Client, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    # A folder has no size to set; its mode and time are set all the same.
    wanted = attributes(size=0, mode=0o710, mtime=9)
    assert client.told(w.SETSTAT, client.path("d") + wanted) == (w.FAILURE, b"Is a directory")
    found = (tmp_path / "d").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o710, 9)


def test_an_owner_of_all_ones_stays(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert client.status(w.SETSTAT, client.path("f") + attributes(uid=2**32 - 1, gid=2**32 - 1)) == w.OK
    assert (tmp_path / "f").stat().st_uid == os.getuid()


def test_attributes_of_a_link_itself(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0o600)
    (tmp_path / "link").symlink_to("f")
    before = (tmp_path / "f").stat()
    extension = w.string(b"lsetstat@openssh.com")

    def set_link(name: str, wanted: bytes) -> tuple[int, bytes]:
        return client.told(w.EXTENDED, extension + client.path(name) + wanted)

    assert set_link("link", attributes(uid=os.getuid(), gid=os.getgid(), mtime=11))[0] == w.OK
    assert (tmp_path / "link").lstat().st_mtime == 11
    assert (tmp_path / "f").stat() == before
    # Linux has no permissions of links: OpenSSH's server says the same.
    assert set_link("link", attributes(mode=0o777))[0] == w.OP_UNSUPPORTED
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert set_link("f", attributes(mode=0o640))[0] == w.OK
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert set_link("f", attributes(size=0))[0] == w.BAD_MESSAGE
    assert (tmp_path / "f").read_bytes() == b"x"


# ---------------------------------------------------------------------------- folders and names


def test_a_folder_is_listed_a_piece_at_a_time(client: Client, tmp_path: Path) -> None:
    # A name that is no text in any encoding.
    wanted = {b"%03d-\xff\n" % index for index in range(250)}
    for name in wanted:
        (tmp_path / os.fsdecode(name)).touch()
    pieces = names_of(client)
    assert pieces[0][:2] == [b".", b".."]
    assert max(map(len, pieces)) <= 102
    assert {name for piece in pieces for name in piece} - {b".", b".."} == wanted


def test_a_large_folder_is_never_held(client: Client, tmp_path: Path) -> None:
    for index in range(3000):
        (tmp_path / f"{index}{'x' * 240}").touch()
    handle = client.ask(w.OPENDIR, client.path("."))[1]
    # What was not listed yet is not in memory either: it goes away, and the listing with it.
    first = client.names(client.ask(w.READDIR, handle))
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    seen = len(first)
    while (answer := client.ask(w.READDIR, handle))[0] == w.NAME:
        seen += len(client.names(answer))
    assert seen < 1000


def test_a_listing_reads_like_ls(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "f").chmod(0o640)
    os.utime(tmp_path / "f", (0, 86400 * 365))
    handle = client.ask(w.OPENDIR, client.path("."))[1]
    lines = dict(client.names(client.ask(w.READDIR, handle)))
    owner = pwd.getpwuid(os.getuid()).pw_name.encode()
    assert lines[b"f"].startswith(b"-rw-r-----   1 " + owner.ljust(8) + b" ")
    assert lines[b"f"].endswith(b"       5 Jan  1  1971 f")
    assert lines[b"."].startswith(b"drwx")


def test_names_of_owners_are_not_kept_for_ever() -> None:
    owners = sftp_owners.Owners()
    for uid in range(3_000_000_000, 3_000_002_000):
        assert owners.shown(sftp_owners.USER, uid) == b"%d" % uid
    assert len(owners._known) <= 512


def test_resolving_a_path(client: Client, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "round").symlink_to("round")
    here = os.path.realpath(client.folder)

    def resolved(path: bytes) -> bytes:
        ((found, again),) = client.names(client.ask(w.REALPATH, w.string(path)))
        assert found == again
        return found

    assert resolved(client.folder + b"/link/../d/./new") == here + b"/d/new"
    assert resolved(client.folder + b"/link") == here + b"/d"
    assert resolved(b"/..") == b"/"
    for missing in ("none/new", "f/new", "round"):
        assert client.status(w.REALPATH, client.path(missing)) == w.NO_SUCH_FILE


def test_expanding_a_path(client: Client) -> None:
    here = os.path.realpath(client.folder)
    root = pwd.getpwuid(0)
    for path, wanted in (
        (b"", here),
        (b"x", here + b"/x"),
        (b"~", here),
        (b"~/x", here + b"/x"),
        (b"~root", os.path.realpath(root.pw_dir).encode()),
        (b"/etc/../usr", b"/usr"),
    ):
        ((found, _),) = client.names(client.extended(b"expand-path@openssh.com", w.string(path)))
        assert found == wanted
    assert client.told(w.EXTENDED, w.string(b"expand-path@openssh.com") + w.string(b"~nobody-of-that-name")) == (
        w.NO_SUCH_FILE,
        b"no such user",
    )
    ((found, _),) = client.names(client.extended(b"home-directory", w.string(b"root")))
    assert found == root.pw_dir.encode()
    ((found, _),) = client.names(client.extended(b"home-directory", w.string(b"")))
    assert found == client.folder


def test_links_have_their_target_first(client: Client, tmp_path: Path) -> None:
    assert client.status(w.SYMLINK, w.string(b"target") + client.path("link")) == w.OK
    assert os.readlink(tmp_path / "link") == "target"
    ((found, _),) = client.names(client.ask(w.READLINK, client.path("link")))
    assert found == b"target"
    assert client.status(w.SYMLINK, w.string(b"") + client.path("empty")) == w.NO_SUCH_FILE


# ---------------------------------------------------------------------------- renaming


def test_a_folder_and_a_link_are_renamed_and_replace_nothing(client: Client, tmp_path: Path) -> None:
    for name in ("d", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for old in ("d", "link"):
        assert client.told(w.RENAME, client.path(old) + client.path("taken")) == (w.FAILURE, b"File exists")
        assert client.status(w.RENAME, client.path(old) + client.path(f"{old}-2")) == w.OK
    assert sorted(os.listdir(tmp_path)) == ["d-2", "link-2", "taken"]
    assert os.readlink(tmp_path / "link-2") == "nowhere"


def test_a_rename_that_fails_half_way_leaves_no_second_name(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_text("x")
    unlink = os.unlink

    def refuse(path: bytes) -> None:
        # As in a folder with the append-only attribute: names can be added, none taken away.
        if path.endswith(b"/old"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    assert client.status(w.RENAME, client.path("old") + client.path("new")) == w.PERMISSION_DENIED
    assert os.listdir(tmp_path) == ["old"]


def test_renaming_where_there_are_no_hard_links(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert client.status(w.RENAME, client.path("a") + client.path("b")) == w.FAILURE
    assert client.status(w.RENAME, client.path("a") + client.path("c")) == w.OK
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


# ---------------------------------------------------------------------------- OpenSSH's extensions


def test_the_limits_are_openssh_s(client: Client) -> None:
    kind, payload = client.extended(b"limits@openssh.com", b"")
    packet = w.Packet(payload)
    assert kind == w.EXTENDED_REPLY
    assert [packet.uint64() for _ in range(4)] == [256 * 1024, 255 * 1024, 255 * 1024, MAX_HANDLES]


def test_copying_within_the_server(client: Client, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (tmp_path / "from").write_bytes(data)
    source = client.open("from", w.FLAG_READ)
    target = client.open("to", w.FLAG_WRITE | w.FLAG_CREATE)
    extension = w.string(b"copy-data")

    def copy(source_at: int, length: int, target_at: int, into: bytes = target) -> int:
        body = extension + source + offset(source_at) + offset(length) + into + offset(target_at)
        return client.status(w.EXTENDED, body)

    assert copy(0, 0, 0) == w.OK
    assert (tmp_path / "to").read_bytes() == data
    assert copy(1, 3, 500_000) == w.OK
    assert (tmp_path / "to").read_bytes() == data + data[1:4]
    assert copy(499_999, 2, 0) == w.EOF
    assert copy(0, 0, 0, source) == w.FAILURE
    # By another name it is the same file, which would grow for ever.
    os.link(tmp_path / "from", tmp_path / "again")
    assert copy(0, 0, 500_000, client.open("again", w.FLAG_WRITE)) == w.FAILURE
    (tmp_path / "log").write_bytes(b"log ")
    assert copy(0, 2, 0, client.open("log", w.FLAG_WRITE | w.FLAG_APPEND)) == w.OK
    assert (tmp_path / "log").read_bytes() == b"log " + data[:2]
    assert copy(0, 5, 0, client.open("again", w.FLAG_READ)) == w.FAILURE


def test_copying_what_has_no_size(client: Client, tmp_path: Path) -> None:
    handle = client.ask(w.OPEN, w.string(b"/proc/version") + number(w.FLAG_READ) + w.NO_ATTRIBUTES)[1]
    target = client.open("to", w.FLAG_WRITE | w.FLAG_CREATE)
    assert client.status(w.EXTENDED, w.string(b"copy-data") + handle + offset(0) * 2 + target + offset(0)) == w.OK
    assert (tmp_path / "to").read_bytes() == Path("/proc/version").read_bytes()


def test_names_by_number(client: Client) -> None:
    unknown = 3_999_999_999
    body = w.string(number(0) + number(unknown)) + w.string(number(0))
    kind, payload = client.extended(b"users-groups-by-id@openssh.com", body)
    assert kind == w.EXTENDED_REPLY
    packet = w.Packet(payload)
    assert packet.string() == w.string(b"root") + w.string(b"")
    assert packet.string() == w.string(b"root")
    assert client.extended(b"users-groups-by-id@openssh.com", w.string(b"") * 2) == (
        w.EXTENDED_REPLY,
        w.string(b"") * 2,
    )
    for bad in (w.string(b"123") + w.string(b""), w.string(b"") + w.string(bytes(200_000))):
        assert client.extended(b"users-groups-by-id@openssh.com", bad)[0] == w.STATUS


def test_the_rest_of_the_extensions(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    handle = client.open("f", w.FLAG_WRITE)
    by_path = client.extended(b"statvfs@openssh.com", client.path("f"))
    by_handle = client.extended(b"fstatvfs@openssh.com", handle)
    assert by_path[0] == by_handle[0] == w.EXTENDED_REPLY
    assert len(by_path[1]) == len(by_handle[1]) == 11 * 8
    assert client.status(w.EXTENDED, w.string(b"fsync@openssh.com") + handle) == w.OK
    assert client.status(w.EXTENDED, w.string(b"hardlink@openssh.com") + client.path("f") + client.path("g")) == w.OK
    assert (tmp_path / "g").stat().st_nlink == 2
    assert client.status(w.EXTENDED, w.string(b"no-such@example.com")) == w.OP_UNSUPPORTED


# ---------------------------------------------------------------------------- what may be asked


def test_requests_can_be_denied_by_name(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with Client(tmp_path, denied={"remove", "statvfs"}) as client:
        assert client.status(w.REMOVE, client.path("f")) == w.PERMISSION_DENIED
        assert client.extended(b"statvfs@openssh.com", client.path("f"))[1][:4] == number(w.PERMISSION_DENIED)
        assert w.string(b"statvfs@openssh.com") not in client.greeting
        assert w.string(b"fstatvfs@openssh.com") in client.greeting
        assert client.ask(w.STAT, client.path("f"))[0] == w.ATTRS
    with Client(tmp_path, allowed={"stat", "realpath"}) as client:
        assert client.ask(w.STAT, client.path("f"))[0] == w.ATTRS
        assert client.status(w.LSTAT, client.path("f")) == w.PERMISSION_DENIED


def test_read_only_announces_no_change(tmp_path: Path) -> None:
    with Client(tmp_path, read_only=True) as client:
        for name in (b"posix-rename", b"hardlink", b"fsync", b"lsetstat", b"copy-data"):
            assert name not in client.greeting
        assert b"limits@openssh.com" in client.greeting

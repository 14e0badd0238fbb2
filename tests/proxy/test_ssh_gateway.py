"""OpenSSH through the gateway: the real client where it is installed, asyncssh's where details matter."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.proxy.conftest import Cluster, FakeNode, UserFixture, World, run, world
from tinyport.core.certificate import public_line
from tinyport.core.signatures import Ed25519Key
from tinyport.link.node_list import NODES_SUBSYSTEM, ask_nodes
from tinyport.proxy import ssh_gateway

needs_openssh = pytest.mark.needs("ssh")


def client_files(user: UserFixture, folder: Path, port: int, host_ca: bytes) -> list[str]:
    """Files as ``tsh login`` leaves them, and the options of ssh that name them."""
    key = folder / f"id-{user.name}"
    key.write_bytes(user.key.to_openssh())
    key.chmod(0o600)
    (folder / f"{key.name}-cert.pub").write_text(public_line(user.certificate) + "\n")
    known = folder / "known_hosts"
    known.write_text(f"@cert-authority [127.0.0.1]:{port},127.0.0.1 {public_line(host_ca)}\n")
    config = folder / "config"
    config.write_text("")
    return [
        "-F",
        str(config),
        "-i",
        str(key),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        f"UserKnownHostsFile={known}",
        "-o",
        "GlobalKnownHostsFile=/dev/null",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=20",
        "-p",
        str(port),
    ]


async def ssh(here: World, user: UserFixture, *words: str, input: bytes = b"") -> tuple[int, bytes, str]:
    options = client_files(user, here.folder, here.address[1], here.cluster.host_ca.public_blob)
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    process = await asyncio.create_subprocess_exec(
        "ssh",
        *options,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate(input)
    assert process.returncode is not None
    return process.returncode, out, err.decode()


def asyncssh_options(user: UserFixture) -> dict[str, Any]:
    key = asyncssh.import_private_key(user.key.to_openssh())
    certificate = asyncssh.import_certificate(public_line(user.certificate))
    ca = asyncssh.import_public_key(public_line(user.cluster.host_ca.public_blob))
    return {
        "client_keys": [(key, certificate)],
        "known_hosts": ([], [ca], []),
        "config": None,
        "agent_path": None,
        "username": "anybody",
    }


class Banners(asyncssh.SSHClient):
    """Keeps the banners it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.seen.append(msg)


async def refused_login(here: World, user: UserFixture, **changes: Any) -> list[str]:
    """The banners of a login that fails."""
    client = Banners()
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.create_connection(lambda: client, *here.address, **{**asyncssh_options(user), **changes})
    return client.seen


@needs_openssh
def test_openssh_reaches_a_node(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            blob = os.urandom(300_000)
            for target in ("greenhouse", "greenhouse.farm", pi.uuid):
                status, out, err = await ssh(here, cluster.user(), "-W", f"{target}:22", "127.0.0.1", input=blob)
                assert (status, out[: len(FakeNode.GREETING)]) == (0, FakeNode.GREETING), err
                assert out[len(FakeNode.GREETING) :] == blob
            assert [asked["target"] for asked in here.auth.asked] == ["greenhouse", "greenhouse", pi.uuid]
            assert here.auth.asked[0]["login"] is None
            notice = await node.heard("dial")
            assert notice["target_user"] == ""

    run(main(), 60)


@needs_openssh
def test_openssh_shows_why_not(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            here.auth.refusals["barn"] = (409, {"code": "offline", "message": "node barn is offline since noon"})
            status, _, err = await ssh(here, cluster.user(), "-W", "barn:22", "127.0.0.1")
            assert status != 0
            assert "node barn is offline since noon" in err
            expired = cluster.user(now=int(time.time()) - 7200)
            status, _, err = await ssh(here, expired, "-W", "greenhouse:22", "127.0.0.1")
            assert status == 255
            assert "certificate expired" in err
            assert "tsh login" in err
            status, _, err = await ssh(here, cluster.user(), "127.0.0.1")
            assert status == 1
            assert "ssh -J 127.0.0.1:3080 LOGIN@NODE" in err

    run(main(), 60)


def test_certificate_refusals_come_as_banners(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            (banner,) = await refused_login(here, cluster.user(now=int(time.time()) + 7200))
            assert "clock" in banner
            (banner,) = await refused_login(here, cluster.user(ca=Ed25519Key.generate()))
            assert banner == "tinyport: access denied\r\n"
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": "on leave"}
            here.proxy.knowledge.take_policy(cluster.policy(locks=[lock]))
            (banner,) = await refused_login(here, cluster.user())
            assert "user ada is locked: on leave" in banner

    run(main())


def test_only_a_proven_certificate_counts(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            user = cluster.user()
            # Somebody else's certificate with a key of one's own: the question is answered with yes, the proof with no.
            mine = asyncssh.import_private_key(Ed25519Key.generate().to_openssh())
            stolen, *_ = asyncssh.load_keypairs(asyncssh_options(user)["client_keys"])
            object.__setattr__(stolen, "_key", mine)
            assert await refused_login(here, user, client_keys=[stolen]) == []
            # A plain key, however good.
            plain = asyncssh.import_private_key(user.key.to_openssh())
            assert await refused_login(here, user, client_keys=[plain]) == []
            # A host's certificate.
            user.certificate = public_host_certificate(here, user)
            assert await refused_login(here, user) == ["tinyport: access denied\r\n"]
            with pytest.raises(asyncssh.PermissionDenied):
                await asyncssh.connect(
                    *here.address, username="ada", password="secret", known_hosts=None, config=None, client_keys=None
                )

    run(main())


def public_host_certificate(here: World, user: UserFixture) -> bytes:
    from tinyport.core.issue import issue_host_certificate

    return issue_host_certificate(
        here.cluster.user_ca,
        public_key=user.key.public_blob,
        serial=1,
        nonce=bytes(32),
        cluster="farm",
        uuid="0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b",
        name="x",
        role="node",
        generation=1,
        now=int(time.time()),
        ttl=3600,
    )


def test_too_many_tries_end_the_connection(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_gateway, "MAX_AUTH_TRIES", 3)

    async def main() -> None:
        async with world(cluster, tmp_path) as here:
            keys = [asyncssh.import_private_key(Ed25519Key.generate().to_openssh()) for _ in range(5)]
            with pytest.raises((asyncssh.DisconnectError, OSError), match="Too many"):
                await asyncssh.connect(*here.address, **{**asyncssh_options(cluster.user()), "client_keys": keys})

    run(main())


def test_nothing_but_nodes_can_be_reached(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_gateway, "MAX_CHANNELS", 2)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            async with asyncssh.connect(*here.address, **asyncssh_options(cluster.user())) as client:
                with pytest.raises(asyncssh.ChannelOpenError, match="no such node"):
                    await client.open_connection("127.0.0.1", here.auth.port)
                with pytest.raises(asyncssh.ChannelOpenError):
                    await client.open_unix_connection("/run/docker.sock")
                with pytest.raises(asyncssh.ChannelListenError):
                    await client.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)
                result = await client.run("id")
                assert result.exit_status == 1
                assert "has no shell" in str(result.stderr)
                # Many sessions in one connection, but not without end.
                streams = [await client.open_connection("greenhouse", 22, encoding=None) for _ in range(2)]
                with pytest.raises(asyncssh.ChannelOpenError, match="at most 2"):
                    await client.open_connection("greenhouse", 22)
                for reader, writer in streams:
                    assert await reader.readline() == FakeNode.GREETING
                    writer.write(b"hello\n")
                    assert await reader.readline() == b"hello\n"
                streams[0][1].close()
                await streams[0][1].wait_closed()

    run(main())


def test_lists_of_nodes_and_how_many_are_asked_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_gateway, "MAX_SESSIONS", 2)

    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            async with asyncssh.connect(*here.address, **asyncssh_options(cluster.user())) as client:
                # Each stays for as long as nothing is asked, or the answer is not taken.
                held = [await client.create_process(subsystem=NODES_SUBSYSTEM, encoding=None) for _ in range(2)]
                with pytest.raises(asyncssh.ChannelOpenError, match="at most 2"):
                    await client.create_process(subsystem=NODES_SUBSYSTEM, encoding=None)
                for process in held:
                    process.close()
                    await process.wait_closed()
                for _ in range(4):
                    assert [node["name"] for node in await ask_nodes(client, [], "")] == ["greenhouse"]

    run(main())


def test_bulk_through_a_channel(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            async with asyncssh.connect(*here.address, **asyncssh_options(cluster.user())) as client:
                reader, writer = await client.open_connection("greenhouse", 22, encoding=None)
                assert await reader.readline() == FakeNode.GREETING
                blob = os.urandom(6_000_000)

                async def write() -> None:
                    # Far more than any window: both directions must be held up and let go again.
                    for at in range(0, len(blob), 100_000):
                        writer.write(blob[at : at + 100_000])
                        await writer.drain()

                _, back = await asyncio.gather(write(), reader.readexactly(len(blob)))
                assert back == blob

    run(main())


def test_connections_and_sessions_are_cut_when_the_policy_turns(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            await here.node(pi)
            ada = await asyncssh.connect(*here.address, **asyncssh_options(cluster.user("ada")))
            reader, _ = await ada.open_connection("greenhouse", 22, encoding=None)
            assert await reader.readline() == FakeNode.GREETING
            bob = await asyncssh.connect(*here.address, **asyncssh_options(cluster.user("bob")))
            lock = {"id": "l1", "target": {"user": "ada"}, "expires": None, "message": ""}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            await ada.wait_closed()
            with pytest.raises(asyncssh.Error):
                await ada.open_connection("greenhouse", 22)
            reader, _ = await bob.open_connection("greenhouse", 22, encoding=None)
            assert await reader.readline() == FakeNode.GREETING
            # A lock on the node ends the session on it, not the connection to the proxy.
            lock = {"id": "l2", "target": {"node": pi.uuid}, "expires": None, "message": ""}
            here.auth.say({"policy": cluster.policy(locks=[lock])})
            assert await reader.read() == b""
            with pytest.raises(asyncssh.ChannelOpenError):
                await bob.open_connection("greenhouse", 22)
            bob.close()
            await bob.wait_closed()

    run(main())


def test_a_client_that_leaves_while_its_node_dials(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            node.dials_back = False
            client = await asyncssh.connect(*here.address, **asyncssh_options(cluster.user()))
            opening = asyncio.ensure_future(client.open_connection("greenhouse", 22))
            ticket = (await node.heard("dial"))["ticket"]
            client.abort()
            with pytest.raises(asyncssh.Error):
                await opening
            while here.proxy.gatekeeper.open_count:
                await asyncio.sleep(0)
            # The node comes for nobody: it is sent away, and nothing is left.
            ended = asyncio.Event()

            async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                assert await reader.read() == b""
                ended.set()

            node.session = session
            await node.dial_back(ticket)
            assert ended.is_set()
            assert len(here.proxy.dials) == 0

    run(main())

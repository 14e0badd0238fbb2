"""tsh through the proxy to a node that dials back, and every way in which it is refused."""

from __future__ import annotations

from pathlib import Path

from tests.proxy.conftest import Cluster, FakeNode, close, run, world


def test_a_session_flows_end_to_end(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse", site="berlin")
        async with world(cluster, tmp_path, [pi]) as here:
            node = await here.node(pi)
            answer, reader, writer = await here.tsh(cluster.user(), "greenhouse")
            assert answer == {"ok": True, "node": {"uuid": pi.uuid, "name": "greenhouse"}}
            assert await reader.readline() == FakeNode.GREETING
            blob = bytes(range(256)) * 8192
            writer.write(blob)
            assert await reader.readexactly(len(blob)) == blob
            notice = await node.heard("dial")
            assert notice["client"] == "{}:{}".format(*writer.get_extra_info("sockname")[:2])
            assert notice["target_user"] == "pi"
            assert here.auth.asked[0]["login"] == "pi"
            await close(writer)

    run(main())

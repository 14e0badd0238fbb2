"""A person with a browser, on a real cluster: from the invitation to a shell, and everything that is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.scenarios.browser import Browser
from tests.scenarios.cluster import LIMIT, Cluster, text, wait_for

PASSWORD = "correct horse battery"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * LIMIT))


def invited(cluster: Cluster, name: str, roles: str = "access") -> str:
    done = cluster.tctl("users", "add", name, "--logins", cluster.login_name, "--roles", roles, "--format", "json")
    assert done.returncode == 0, text(done)
    return str(json.loads(done.stdout)["urls"][0]).partition("#")[2]


def test_from_the_invitation_to_a_shell(cluster: Cluster) -> None:
    invitation = invited(cluster, "wanda")

    async def main() -> None:
        async with Browser(cluster) as browser:
            status, answer = await browser.ask("POST", "/web/api/invitation", {"invitation": invitation})
            assert (status, answer["user"]) == (200, "wanda")
            status, answer = await browser.ask(
                "POST", "/web/api/signup", {"invitation": invitation, "password": PASSWORD}
            )
            assert (status, answer) == (200, {"user": "wanda"})
            about = await browser.log_in("wanda")
            assert cluster.login_name in about["logins"]
            assert about["may"]["users"] == []
            status, answer = await browser.ask("GET", "/web/api/v1/nodes")
            assert cluster.node in [node["name"] for node in answer["nodes"]]
            # Each of several selectors reaches auth.
            for query in ("selector=bad&selector=no=where", "selector=no=where&selector=bad"):
                status, answer = await browser.ask("GET", f"/web/api/v1/nodes?{query}")
                assert (status, answer["error"]["code"]) == (400, "bad_request")
            screen = await browser.open(cluster.node, cluster.login_name)
            await screen.type("stty size; echo $((6 * 7))-$TERM-$COLORTERM\r")
            await screen.until(b"42-xterm-256color-truecolor")
            assert b"24 80" in screen.text
            await screen.socket.send_json({"type": "resize", "cols": 101, "rows": 33})
            await screen.type("stty size\r")
            await screen.until(b"33 101")
            await screen.type("exit 3\r")
            assert await screen.end() == {"type": "exit", "status": 3}

    run(main())

    def of(event: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cluster.tctl_json("audit", "--user", "wanda", "--type", event)["events"]
        return found

    logins = [event for event in of("user.login") if event.get("web")]
    assert logins
    assert logins[0]["source"] == "127.0.0.1"
    # The node's own events travel by themselves.
    assert wait_for("the session's start", lambda: of("session.start"))[0]["login"] == cluster.login_name


def test_a_terminal_outlives_its_network(cluster: Cluster) -> None:
    cluster.add_user("nat", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser:
            await browser.log_in("nat")
            screen = await browser.open(cluster.node, cluster.login_name)
            await screen.type("mark=before; echo $mark-one\r")
            await screen.until(b"before-one")
            seen, id = screen.place, screen.id
            await screen.socket.close()

            again = await browser.terminal({"type": "resume", "id": id, "seen": seen})
            await again.attached()
            assert again.place == seen
            await again.type("echo $mark-two\r")
            await again.until(b"before-two")
            assert b"before-one" not in again.text
            # A page that was loaded again has an empty screen; and it takes over from the one that is still there.
            whole = await browser.terminal({"type": "resume", "id": id, "seen": 0})
            await whole.until(b"before-two")
            assert b"before-one" in whole.text
            while (await again.next()).type is not aiohttp.WSMsgType.CLOSE:
                assert not again.socket.closed
            await whole.socket.send_json({"type": "close"})
            assert (await whole.end())["type"] == "exit"
            gone = await browser.terminal({"type": "resume", "id": id, "seen": 0})
            assert (await gone.end())["code"] == "not_found"

    run(main())


def test_a_flood_waits_for_the_browser(cluster: Cluster) -> None:
    cluster.add_user("flo", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser:
            await browser.log_in("flo")
            screen = await browser.open(cluster.node, cluster.login_name)
            await screen.type("PS1=; stty -onlcr -echo; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo th''e-end\r")
            before = screen.place
            while screen.place - before < 256 * 1024:
                await screen.next(acknowledge=False)
            # Nobody says that it was drawn: what was on its way comes, and then no more.
            await screen.silence()
            assert screen.place - before < 1024 * 1024
            await screen.socket.send_json({"type": "ack", "bytes": screen.place})
            await screen.until(b"the-end")
            assert screen.place - before > 5_000_000

    run(main())


def test_what_is_refused(cluster: Cluster) -> None:
    cluster.add_user("ray", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser:
            status, answer = await browser.ask("GET", "/web/api/v1/nodes")
            assert (status, answer["error"]["code"]) == (401, "login_required")
            status, answer = await browser.ask("POST", "/web/api/login", {"user": "ray", "password": "wrong"})
            assert (status, answer["error"]["code"]) == (401, "bad_credentials")
            login = {"user": "ray", "password": PASSWORD}
            status, answer = await browser.ask("POST", "/web/api/login", login, {"Origin": "https://evil.example"})
            assert (status, answer["error"]["code"]) == (403, "origin")
            await browser.log_in("ray")
            # Another page: no token, or not our origin.
            status, answer = await browser.ask("POST", "/web/api/renew", {}, {"Tinyport-Csrf": "guess"})
            assert (status, answer["error"]["code"]) == (403, "csrf")
            status, answer = await browser.ask("POST", "/web/api/renew", {}, {"Origin": "https://evil.example"})
            assert (status, answer["error"]["code"]) == (403, "origin")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await browser.terminal({}, origin="https://evil.example")
            # What a role does not allow is auth's to refuse; what is no route of the page's does not exist.
            for path in ("users", "tokens", "audit", "locks"):
                status, answer = await browser.ask("GET", f"/web/api/v1/{path}")
                assert (status, answer["error"]["code"]) == (403, "denied")
            for method, path in (("POST", "sign"), ("POST", "rotation"), ("GET", "..%2fbackup"), ("GET", "watch")):
                status, _ = await browser.ask(method, f"/web/api/v1/{path}", {} if method == "POST" else None)
                assert status == 404
            screen = await browser.terminal(
                {"type": "open", "node": cluster.node, "login": "nobody-of-yours", "cols": 80, "rows": 24}
            )
            assert (await screen.end())["code"] == "denied"
            screen = await browser.terminal(
                {"type": "open", "node": "<script>", "login": cluster.login_name, "cols": 80, "rows": 24}
            )
            assert (await screen.end())["type"] == "error"
            for nonsense in ({"type": "open"}, {"type": "resume", "id": "x", "seen": -1}, {"type": "open", "node": 3}):
                screen = await browser.terminal(nonsense)
                assert (await screen.end())["type"] == "error"

    run(main())


def test_sessions_are_listed_renewed_and_ended(cluster: Cluster) -> None:
    cluster.add_user("sue", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser, Browser(cluster) as other:
            await browser.log_in("sue")
            await other.log_in("sue")
            status, _ = await browser.ask("POST", "/web/api/renew", {"active": True})
            assert status == 200
            status, answer = await browser.ask("GET", "/web/api/v1/web/sessions")
            ids = {item["id"] for item in answer["sessions"]}
            assert ids == {browser.about["session"], other.about["session"]}
            screen = await other.open(cluster.node, cluster.login_name)
            status, _ = await browser.ask("DELETE", f"/web/api/v1/web/sessions/{other.about['session']}")
            assert status == 200
            # Its terminal ends at once, and its cookie opens nothing.
            assert (await screen.end())["message"] == "your web session was ended"
            status, _ = await other.ask("GET", "/web/api/whoami")
            assert status == 401
            cookie = browser.cookie
            status, _ = await browser.ask("POST", "/web/api/logout", {})
            assert status == 200
            assert browser.cookie == ""
            browser.client.cookie_jar.clear()
            status, _ = await browser.ask("GET", "/web/api/whoami", headers={"Cookie": f"__Host-tinyport={cookie}"})
            assert status == 401

    run(main())


RECORDED = """
kind = "role"
name = "recorded-web"

[allow]
logins = ["{{internal.logins}}"]
node_labels = { "*" = ["*"] }
rules = [{ resources = ["recordings"], verbs = ["read_own"] }]

[options]
record = "node"
"""


def test_a_recording_passes_as_it_comes_and_ends_with_the_session(cluster: Cluster) -> None:
    role = cluster.folder / "recorded-web.toml"
    role.write_text(RECORDED)
    assert cluster.tctl("create", "-f", role).returncode == 0
    cluster.add_user("rec", cluster.login_name, roles="recorded-web")
    cluster.add_user("eve", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser, Browser(cluster) as again, Browser(cluster) as eve:
            await browser.log_in("rec")
            await again.log_in("rec")
            await eve.log_in("eve")
            screen = await browser.open(cluster.node, cluster.login_name)
            await screen.type("echo live-$((6 * 7))\r")
            await screen.until(b"live-42")
            found: list[dict[str, Any]] = []
            while not found:
                await asyncio.sleep(0.05)
                status, answer = await again.ask("GET", "/web/api/v1/recordings")
                assert status == 200
                found = [item for item in answer["recordings"] if item["state"] == "live"]
            path = f"/web/api/v1/recordings/{found[0]['id']}"
            assert (await eve.ask("GET", path))[1]["error"]["code"] == "denied"
            # Four at once, and no fifth; a place is free when one was closed.
            open_ones = [await again.client.get(again.base + path, params={"follow": "1"}) for _ in range(4)]
            assert [one.status for one in open_ones] == [200] * 4
            assert open_ones[0].headers["Content-Type"] == "application/x-asciicast"
            assert "default-src 'none'" in open_ones[0].headers["Content-Security-Policy"]
            status, answer = await again.ask("GET", path)
            assert (status, answer["error"]["code"]) == (403, "in_use")
            seen = b""
            while b"live-42" not in seen:
                seen += await asyncio.wait_for(open_ones[0].content.readany(), LIMIT)
            assert json.loads(seen.partition(b"\n")[0])["version"] == 2
            open_ones[3].close()
            # As long as a browser takes nothing, nothing is kept for it: that is TCP's, and the route's limit in time.
            status, _ = await browser.ask("DELETE", f"/web/api/v1/web/sessions/{again.about['session']}")
            assert status == 200
            for one in open_ones[:3]:
                with suppress(aiohttp.ClientError):
                    while await asyncio.wait_for(one.content.readany(), LIMIT):
                        pass
                one.close()
            await screen.socket.send_json({"type": "close"})

    run(main())


def test_what_may_not_be_joined(cluster: Cluster) -> None:
    cluster.add_user("own", cluster.login_name)
    cluster.add_user("eva", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser, Browser(cluster) as eva:
            await browser.log_in("own")
            await eva.log_in("eva")
            await browser.open(cluster.node, cluster.login_name)
            found: list[dict[str, Any]] = []
            while not found:
                await asyncio.sleep(0.05)
                _, answer = await browser.ask("GET", "/web/api/v1/sessions")
                found = [item for item in answer["sessions"] if item["user"] == "own"]
            assert found[0]["join"] == ["observer", "peer"]
            size = {"cols": 80, "rows": 24}
            for wish, code in (
                # That there is such a session is nobody else's business.
                ({"session": found[0]["id"], "mode": "observer"}, "not_found"),
                ({"session": "0" * 32, "mode": "peer"}, "not_found"),
                ({"session": found[0]["id"], "mode": "owner"}, "bad_request"),
                ({"session": 7, "mode": "peer"}, "bad_request"),
                ({"session": "x" * 1000, "mode": "peer"}, "bad_request"),
            ):
                screen = await eva.terminal({"type": "join", **wish, **size})
                assert (await screen.end())["code"] == code, wish
            screen = await browser.terminal({"type": "join", "session": found[0]["id"], "mode": "observer", **size})
            await screen.attached()
            assert (screen.said["user"], screen.said["mode"]) == ("own", "observer")

    run(main())


def test_a_lock_ends_the_terminal(cluster: Cluster) -> None:
    cluster.add_user("lou", cluster.login_name)

    async def main() -> None:
        async with Browser(cluster) as browser:
            await browser.log_in("lou")
            screen = await browser.open(cluster.node, cluster.login_name)
            done = await asyncio.to_thread(cluster.tctl, "lock", "--user", "lou")
            assert done.returncode == 0, text(done)
            assert "access revoked: user lou is locked" in (await screen.end())["message"]
            status, answer = await browser.ask("POST", "/web/api/renew", {})
            assert (status, answer["error"]["code"]) == (403, "locked")
            status, _ = await browser.ask("GET", "/web/api/whoami")
            assert status in (401, 403)

    run(main())

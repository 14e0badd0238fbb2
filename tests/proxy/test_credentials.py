"""Becoming a proxy and staying one."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Cluster, TlsAuthority, close, run, world
from tinyport.core.errors import AccessDenied, OperatorError, Unavailable
from tinyport.host import identity_file
from tinyport.host.files import private_folder
from tinyport.host.logging_line import Log
from tinyport.link import enrolment
from tinyport.proxy import credentials, server
from tinyport.proxy.settings import ProxySettings

QUIET = Log("test", "error", descriptor=-1)


def test_joining_waits_for_auth(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_FIRST_RETRY", 0.001)
    tries: list[tuple[Any, ...]] = []

    def join(*words: Any) -> dict[str, object]:
        tries.append(words)
        if len(tries) < 3:
            raise Unavailable("nobody answers")
        return cluster.proxy_identity()

    monkeypatch.setattr(enrolment, "join", join)
    settings = ProxySettings(
        data_dir=tmp_path, token="id.secret", ca_pins=("sha256:00",), nodename="gate", public_addr=("h:443",)
    )
    found = run(credentials.obtain(settings, QUIET))
    assert found.cluster == "farm"
    assert tries[0] == (
        ("127.0.0.1", 3025),
        "id.secret",
        ("sha256:00",),
        False,
        "proxy",
        "gate",
        ("h:443",),
        tmp_path / "proxy" / "identity.json",
    )
    assert (tmp_path / "proxy").stat().st_mode & 0o777 == 0o700


def test_a_token_that_is_refused_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def join(*words: Any) -> dict[str, object]:
        raise AccessDenied("the token was used up", code="bad_token")

    monkeypatch.setattr(enrolment, "join", join)
    with pytest.raises(AccessDenied, match="used up"):
        run(credentials.obtain(ProxySettings(data_dir=tmp_path, token="id.secret"), QUIET))


def test_neither_identity_nor_token(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no token"):
        run(credentials.obtain(ProxySettings(data_dir=tmp_path), QUIET))
    assert server.run(ProxySettings(data_dir=tmp_path, log_level="error")) == 1


def test_a_node_s_identity_is_not_a_proxy_s(cluster: Cluster, tmp_path: Path) -> None:
    settings = ProxySettings(data_dir=tmp_path)
    private_folder(settings.folder)
    identity_file.save(settings.identity_path, {**cluster.proxy_identity(), "kind": "node"})
    with pytest.raises(OperatorError, match="node"):
        run(credentials.obtain(settings, QUIET))


def test_renewal_at_two_thirds(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    held = credentials.Credentials({**cluster.proxy_identity(), "valid_after": 1000, "valid_before": 1900})
    assert held.renewal_due() == 1600
    before = held.contexts
    fresh = {**cluster.proxy_identity(), "valid_after": time.time(), "valid_before": time.time() + 9000}
    monkeypatch.setattr(enrolment, "renew_or_return", lambda path: fresh)

    async def main() -> None:
        renewed = asyncio.Event()
        keeping = asyncio.ensure_future(credentials.keep_renewed(held, Path("x"), renewed.set, QUIET))
        await renewed.wait()
        keeping.cancel()

    run(main())
    assert held.contexts is not before
    assert held.uuid == fresh["uuid"]


def test_one_whose_certificate_has_ended_asks_again_soon(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long outage auth and proxies start together, and the first question may come too early."""
    held = credentials.Credentials({**cluster.proxy_identity(), "valid_after": 1000, "valid_before": 1900})
    fresh = {**cluster.proxy_identity(), "valid_after": time.time(), "valid_before": time.time() + 9000}
    answers: list[object] = [Unavailable("auth does not answer"), fresh]

    def answer(path: Path) -> object:
        found = answers.pop(0)
        if isinstance(found, Unavailable):
            raise found
        return found

    monkeypatch.setattr(enrolment, "renew_or_return", answer)
    # A test that waits for this one is over before.
    monkeypatch.setattr(credentials, "_RENEW_RETRY", 86400.0)
    monkeypatch.setattr(credentials, "_DOUBT_RETRY", 0.0)

    async def main() -> None:
        renewed = asyncio.Event()
        keeping = asyncio.ensure_future(credentials.keep_renewed(held, Path("x"), renewed.set, QUIET))
        await renewed.wait()
        keeping.cancel()

    run(main())
    assert answers == []


def test_a_new_tls_ca_is_trusted_as_soon_as_the_policy_says_so(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        pi = cluster.node("greenhouse")
        async with world(cluster, tmp_path, [pi]) as here:
            fresh = TlsAuthority()
            pi.tls_certificate, pi.tls_key = fresh.leaf("node", pi.uuid)
            reader, writer = await here.tls(pi.context())
            writer.write(b"GET")
            with pytest.raises(OSError):
                await reader.readexactly(1)
            await close(writer)
            here.auth.say({"policy": cluster.policy(tls_cas=[cluster.tls.pem, fresh.pem])})
            while len(here.proxy.knowledge.policy.tls_cas) < 2:
                await asyncio.sleep(0)
            await here.node(pi)
            # The line to auth went over to the new context and is up again.
            await here.auth.until(lambda: pi.uuid in here.auth.online)

    run(main())


def test_the_cas_that_came_with_a_renewal_are_trusted_over_those_of_a_policy_from_the_middle_of_a_rotation(
    cluster: Cluster, tmp_path: Path
) -> None:
    """It stopped in the middle of one rotation and slept through the next: no CA of its policy is auth's any more, so
    that auth could never tell it a newer one.
    """

    async def main() -> None:
        middle, last = TlsAuthority(), TlsAuthority()
        async with world(cluster, tmp_path) as here:
            proxy = here.proxy
            proxy.knowledge.take_policy(cluster.policy(tls_cas=[cluster.tls.pem, middle.pem]))
            cluster.tls = last
            # What enrolment does when the proxy comes home.
            policy = cluster.policy()
            (proxy.settings.folder / "policy.json").write_text(json.dumps(policy))
            proxy.credentials.replace(cluster.proxy_identity())
            proxy._renewed()
            assert proxy.knowledge.policy.tls_cas == (last.pem,)
            context = proxy.credentials.contexts["tinyport-ssh"]
            (found,) = context.get_ca_certs(binary_form=True)
            assert ssl.DER_cert_to_PEM_cert(found).strip() == last.pem.strip()

    run(main())


def test_a_port_that_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path / "one") as here:
            settings = ProxySettings(data_dir=tmp_path / "one", listen=here.address, log_level="error")
            with pytest.raises(OperatorError, match=r"cannot listen on 127\.0\.0\.1"):
                await server.serve(settings, ready=lambda address: None, stop=asyncio.Event())

    run(main())


def test_the_policy_has_a_proxy_renew_early(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity.json"
    identity = cluster.proxy_identity()
    identity_file.save(path, identity)
    held = credentials.Credentials(identity)
    before = time.time() + 1
    newer = {**cluster.proxy_identity(), "valid_after": int(before) + 1, "valid_before": int(before) + 86400}
    monkeypatch.setattr(enrolment, "renew_or_return", lambda path: newer)
    renewed = asyncio.Event()

    async def main() -> None:
        keeping = asyncio.ensure_future(credentials.keep_renewed(held, path, renewed.set, QUIET))
        await asyncio.sleep(0)
        held.renew_early(before, 0.0, time.time())
        await renewed.wait()
        # What it has now is new enough.
        held.renew_early(before, 0.0, time.time())
        assert held.renewal_due() > before
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    run(main())


def test_a_proxy_that_auth_does_not_know_any_more_looks_why(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity.json"
    identity = cluster.proxy_identity()
    identity_file.save(path, identity)
    held = credentials.Credentials(identity)
    answers: list[dict[str, object] | None] = [None, cluster.proxy_identity()]
    looks: list[Path] = []

    def look(path: Path) -> dict[str, object] | None:
        looks.append(path)
        return answers.pop(0)

    monkeypatch.setattr(enrolment, "renew_if_stale", look)
    monkeypatch.setattr(credentials, "_DOUBT_RETRY", 0.0)
    renewed = asyncio.Event()

    async def main() -> None:
        keeping = asyncio.ensure_future(credentials.keep_renewed(held, path, renewed.set, QUIET))
        held.doubt()
        while not looks or held.doubted:
            await asyncio.sleep(0)
        assert not renewed.is_set()
        held.doubt()
        await renewed.wait()
        assert looks == [path, path]
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    run(main())

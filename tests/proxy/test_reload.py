"""The configuration read again: what changes for those who come, what stays for those who are here."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.proxy.conftest import Cluster, run, world
from tests.proxy.test_balancers import ELSEWHERE, HEADER, LOOPBACK, is_closed, source_of
from tests.proxy.test_web_certificate import pair, shown
from tinyport.core.errors import ConfigError, OperatorError
from tinyport.proxy.settings import ProxySettings


def test_lists_and_certificate_change_and_nothing_else(
    cluster: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with world(cluster, tmp_path, log_level="info", nodes=[cluster.node("greenhouse")]) as here:
            proxy = here.proxy
            answers: asyncio.Queue[ProxySettings | Exception] = asyncio.Queue()
            asked = asyncio.Event()

            def read() -> ProxySettings:
                answer = answers.get_nowait()
                if isinstance(answer, Exception):
                    raise answer
                return answer

            async def reload(answer: ProxySettings | Exception, said: str) -> None:
                capfd.readouterr()
                answers.put_nowait(answer)
                asked.set()
                text = ""
                while said not in text:
                    await asyncio.sleep(0.01)
                    text += capfd.readouterr().err

            reloading = asyncio.ensure_future(proxy.reload(read).run(asked))
            user = cluster.user()
            assert await source_of(here, b"", user) == "127.0.0.1"
            trusting = replace(proxy.settings, proxy_protocol_from=LOOPBACK)
            await reload(trusting, "was read again")
            assert await source_of(here, HEADER, user) == "192.0.2.7"
            # What is wrong changes nothing.
            await reload(ConfigError(["proxy.listen: no", "proxy.tls: no"]), "proxy.tls: no")
            await reload(OperatorError("no such file"), "no such file")
            await reload(replace(trusting, listen=("127.0.0.1", 1), nodename="other"), "keys=listen,nodename")
            assert await source_of(here, HEADER, user) == "192.0.2.7"

            first = await shown(proxy.web_certificate.context)
            mine = pair(tmp_path, "mine.example.com")
            files = replace(trusting, web_cert=tmp_path / "cert.pem", web_key=tmp_path / "key.pem")
            await reload(replace(files, web_key=tmp_path / "no.pem"), "no.pem")
            assert await shown(proxy.web_certificate.context) == first
            await reload(files, "was read again")
            assert await shown(proxy.web_certificate.context) == mine
            # The same files, with something new in them.
            renewed = pair(tmp_path, "mine.example.com")
            await reload(replace(files, proxy_protocol_from=ELSEWHERE), "was read again")
            assert await shown(proxy.web_certificate.context) == renewed
            assert await is_closed(here, HEADER + b"SSH-2.0-x\r\n")
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)

    run(main())

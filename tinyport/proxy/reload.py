"""SIGHUP: the configuration read again, and what of it changes while every connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinyport.core.errors import ConfigError, OperatorError, TinyportError
from tinyport.host.logging_line import Log
from tinyport.proxy.balancers import Balancers
from tinyport.proxy.settings import ProxySettings
from tinyport.proxy.web_certificate import WebCertificate

#: reads it, as the proxy would when it starts; TinyportError when it would not start
Read = Callable[[], ProxySettings]

#: what others have been told, or what connections stand on: named in the log, and left as it is
FIXED = ("listen", "public_addr", "auth_address", "nodename", "data_dir", "diagnostics")


class Reload:
    """``run`` lasts until cancelled. A wrong configuration changes nothing, and each of its problems is said."""

    def __init__(
        self,
        settings: ProxySettings,
        read: Read,
        balancers: Balancers,
        certificate: WebCertificate,
        logs: list[Log],
        log: Log,
    ) -> None:
        self._settings = settings
        self._read = read
        self._balancers = balancers
        self._certificate = certificate
        self._logs = logs
        self._log = log

    async def run(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            # Whoever asks meanwhile has changed it since.
            asked.clear()
            try:
                read = await asyncio.to_thread(self._read)
            except ConfigError as error:
                self._refuse(error.problems)
            except (TinyportError, OSError) as error:
                self._refuse([str(error)])
            else:
                self._take(read)

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            self._log.error("the configuration is not read again", problem=problem)

    def _take(self, read: ProxySettings) -> None:
        fixed = [name for name in FIXED if getattr(read, name) != getattr(self._settings, name)]
        if read.listen == (self._settings.listen[0], 0):
            # The system chose the port.
            fixed = [name for name in fixed if name != "listen"]
        if fixed:
            self._log.warning("what changed here takes a restart", keys=",".join(fixed))
        self._balancers.use(read)
        for log in self._logs:
            log.change(read.log_level, read.log_format)
        try:
            self._certificate.use(read)
        except OperatorError as error:
            self._log.error(error.message, detail=error.detail or "-", hint=error.hint or "-")
        self._log.info("the configuration was read again")

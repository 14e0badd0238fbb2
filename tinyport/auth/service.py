"""The auth server's parts, put together. Routes are given one ``Service`` and nothing else."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from tinyport.auth.audit import Audit
from tinyport.auth.authority import Authority, new_authorities, open_authority
from tinyport.auth.challenge import Challenges, Moments
from tinyport.auth.copies_there import CopiesThere
from tinyport.auth.figures import Counts
from tinyport.auth.limiter import BOOTS, BOOTS_RATE, FailureLimiter, Pace
from tinyport.auth.passwords import Passwords
from tinyport.auth.policy_issuer import PolicyIssuer
from tinyport.auth.presence import Presence
from tinyport.auth.recording_files import RecordingFiles
from tinyport.auth.recordings import Recordings
from tinyport.auth.sealing import META as SEAL
from tinyport.auth.sealing import new_seal
from tinyport.auth.settings import AuthSettings
from tinyport.auth.store import Store, open_store
from tinyport.auth.traffic import Traffic
from tinyport.auth.trusting import follow_file
from tinyport.auth.unwritten import Unwritten
from tinyport.auth.watchers import Watchers
from tinyport.core.errors import OperatorError
from tinyport.core.introduction import Introductions
from tinyport.core.proxy_protocol import Announced
from tinyport.core.roles import BUILTIN_ROLES, parse_role, role_document
from tinyport.core.version import VERSION
from tinyport.host.logging_line import Log

#: what a new cluster is configured to do
FIRST_CONFIG: dict[str, object] = {"session_recording": "off"}


@dataclass
class Service:
    """Lives from ``open_service`` to ``close``. Everything that must survive is in ``store``; the rest is made anew."""

    settings: AuthSettings
    log: Log
    store: Store
    authority: Authority
    watchers: Watchers
    issuer: PolicyIssuer
    audit: Audit
    presence: Presence
    passwords: Passwords
    challenges: Challenges
    recordings: Recordings
    #: monotonic time of its start
    began: float
    version: str = VERSION
    failures: FailureLimiter = field(default_factory=FailureLimiter)
    #: boots of devices that keep their keys in memory, by node (``auth.booting``)
    booted: FailureLimiter = field(default_factory=lambda: FailureLimiter(BOOTS, BOOTS_RATE))
    #: and such as were told to wait, by device key or serial number
    waited: FailureLimiter = field(default_factory=lambda: FailureLimiter(BOOTS, BOOTS_RATE))
    #: bytes of events, of each node: four times what it keeps while auth is away, then some forty events a second. A
    #: disk that a node could fill would be the end of the audit log.
    pace: Pace = field(default_factory=lambda: Pace(4 * 1024 * 1024, 16 * 1024))
    counts: Counts = field(default_factory=Counts)
    #: what a full disk did not take
    unwritten: Unwritten = field(default_factory=Unwritten)
    #: set when auth stops: never-ending answers end
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    #: node UUID → hash of what of it was last written to the store, so that repetitions are not
    written: dict[str, int] = field(default_factory=dict)
    #: node UUID → seconds by which its clock is ahead, where it is off
    skews: dict[str, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    #: where the audit log is copied to → the last event's id that is there
    copied: dict[str, int] = field(default_factory=dict)
    #: node UUID → what it last called the time since it booted (``auth.live_sessions``)
    boots: dict[str, str] = field(default_factory=dict)

    #: what nodes' processes were answered, and when (``auth.copies``)
    moments: Moments = field(default_factory=lambda: Moments(secrets.token_bytes(32)))
    copies: CopiesThere = field(default_factory=CopiesThere)

    #: what proxies say of whose connections they pass on
    introductions: Introductions = field(default_factory=lambda: Introductions(secrets.token_bytes(32)))
    #: proxy UUID → the address it calls from: strangers whom it does not introduce come from there, too
    proxy_sources: dict[str, str] = field(default_factory=dict)

    #: closes every connection that came by TLS; the listener's
    cut: Callable[[], None] | None = None

    def cut_later(self, seconds: float) -> None:
        """Close every connection that came by TLS, ``seconds`` from now: what vouched for them does not any more."""
        if self.cut is not None:
            asyncio.get_running_loop().call_later(seconds, self.cut)

    def introduced(self, said: Announced) -> str:
        """The address of whoever a proxy of ours introduces. PeerError when none of them did."""
        return self.introductions.judge(said, self.settings.monotonic())[0]

    def check_source(self, source: str) -> None:
        """TinyportError ``slow_down`` for an address that failed too often. One of our proxies is not made to wait: it
        stands for everybody behind it, and one of them must not be able to shut the others out."""
        if source not in self.proxy_sources.values():
            self.failures.check(source, self.settings.monotonic())

    def count_failure(self, source: str) -> bool:
        """A stranger failed. False when they did so often that it is not to be written down any more."""
        now = self.settings.monotonic()
        self.failures.failed(source, now)
        return self.failures.bearable(source, now)

    def now(self) -> float:
        """Unix seconds."""
        return self.settings.clock()

    @property
    def cluster(self) -> str:
        return self.authority.cluster

    def end_streams(self) -> None:
        """Never-ending answers end now."""
        self.closing.set()
        self.watchers.wake()
        self.audit.wake()

    async def close(self) -> None:
        self.passwords.close()
        await self.store.close()


async def open_service(settings: AuthSettings) -> Service:
    """Open the store, initialise an empty one, load the keys. OperatorError or ConfigError when that cannot be."""
    settings.check()
    log = Log("auth", settings.log_level, settings.log_format)
    store = await open_store(settings.data_dir, settings.clock())
    try:
        await _initialise(store, settings)
        authority = await open_authority(store, settings.clock, settings.key_passphrase)
        watchers = Watchers()
        issuer = PolicyIssuer(authority, watchers, settings.clock)
        await issuer.load(store)
        counts = Counts()
        unwritten = Unwritten(lambda count: _say_unwritten(log, count))
        audit = Audit(authority, settings.clock, counts.noted, unwritten)
        await follow_file(store, settings.trusted_clusters, authority, issuer, audit)
    except BaseException:
        await store.close()
        raise
    if settings.key_passphrase is not None and await store.read.cluster.meta(SEAL) is None:
        log.warning("the cluster's keys are not encrypted", hint="stop auth, and run tctl auth encrypt-keys once")
    await _tell_of_restore(store, audit)
    return Service(
        settings=settings,
        log=log,
        store=store,
        authority=authority,
        watchers=watchers,
        issuer=issuer,
        audit=audit,
        presence=Presence(settings.monotonic()),
        passwords=Passwords(settings.password_cost),
        challenges=Challenges(secrets.token_bytes(32)),
        recordings=Recordings(RecordingFiles(settings.data_dir / "auth")),
        began=settings.monotonic(),
        counts=counts,
        unwritten=unwritten,
    )


def _say_unwritten(log: Log, count: int) -> None:
    log.error("the disk takes nothing: logins and access go on, the audit log does not", events_lost=count)


async def _tell_of_restore(store: Store, audit: Audit) -> None:
    """Once, at the first start after ``auth.restore``."""
    restored = await store.read.cluster.meta("restored")
    if restored is None:
        return
    async with store.write() as tables:
        await tables.cluster.delete_meta("restored")
        await audit.record(tables, "auth.restored", at=int(restored))


async def _initialise(store: Store, settings: AuthSettings) -> None:
    """Name, keys and roles of a new cluster, in one transaction: there is all of it or nothing."""
    cluster = await store.read.cluster.meta("cluster")
    if cluster is not None:
        if cluster != settings.cluster_name:
            raise OperatorError(
                f"{settings.data_dir} is of cluster {cluster}, the configuration says {settings.cluster_name}",
                hint="a cluster's name is in every certificate and cannot change; correct auth.cluster_name",
            )
        return
    now = settings.clock()
    async with store.write() as tables:
        await tables.cluster.set_meta("cluster", settings.cluster_name)
        await tables.cluster.set_meta("server_id", str(uuid.uuid4()))
        seal = None if settings.key_passphrase is None else new_seal()
        if seal is not None:
            wrapped = await asyncio.to_thread(seal.wrapped, settings.key_passphrase or "")
            await tables.cluster.set_meta(SEAL, wrapped)
        for authority in new_authorities(settings.cluster_name, now):
            await tables.authorities.add(authority if seal is None else seal.close(authority), now)
        for name, document in BUILTIN_ROLES.items():
            await tables.cluster.put_role(name, role_document(parse_role(document)))
        await tables.cluster.put_config("cluster", FIRST_CONFIG)

"""May this user reach that node? Asked before a node is touched: auth's word, and ours when auth is down.

Every open session stays on a list with the proof it was opened by, and is judged again when the policy or its
node's document changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tinyport.core.access import Subject, claimed_name, decide, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.durations import format_duration
from tinyport.core.errors import AccessDenied, OperatorError, Unavailable
from tinyport.core.labels import WILDCARD
from tinyport.core.names import printable
from tinyport.core.policy import NodeDocument
from tinyport.host.logging_line import Log
from tinyport.proxy.authlink import AuthLink
from tinyport.proxy.knowledge import Knowledge
from tinyport.proxy.tunnels import Tunnels

REVOKED = "access revoked"
# The node ends what is not allowed any more and tells the person why; if we were faster, they would only read that the
# connection was lost. Whoever is still there after this is cut here.
CUT_AFTER = 3.0

# Refusals that say nothing about a person of ours: anybody can cause them by the thousand.
_STRANGERS = frozenset(("foreign", "kind"))


class Admitted:
    """A user, by a good certificate, for one node.

    What a dial-back needs. Made by ``Gatekeeper.admit`` alone.
    """

    __slots__ = ("login", "name", "subject", "uuid")

    def __init__(self, subject: Subject, uuid: str, name: str, login: str | None) -> None:
        self.subject = subject
        #: the node's UUID and name
        self.uuid = uuid
        self.name = name
        #: None: the client has not said (OpenSSH's -J); the node decides
        self.login = login


class _Open:
    """A session that flows, or an SSH connection to the gateway (``node`` None) on which one may be
    opened."""

    __slots__ = ("cluster", "cut", "ending", "login", "node", "source", "subject")

    def __init__(
        self,
        subject: Subject,
        node: str | None,
        login: str | None,
        source: str,
        cut: Callable[[str], None],
        cluster: str | None,
    ) -> None:
        self.subject = subject
        self.node = node
        #: the other cluster that it goes on to
        self.cluster = cluster
        self.login = login
        self.source = source
        self.cut = cut
        #: set while it is not allowed any more and not over yet
        self.ending: asyncio.TimerHandle | None = None


class Gatekeeper:
    """Judges by ``core.access``; gathers what it needs from auth, from our own copy and from the tunnels."""

    def __init__(self, knowledge: Knowledge, authlink: AuthLink, tunnels: Tunnels, log: Log) -> None:
        self._knowledge = knowledge
        self._auth = authlink
        self._tunnels = tunnels
        self._log = log
        self._open: set[_Open] = set()
        knowledge.on_change.append(self._changed)

    @property
    def open_count(self) -> int:
        return len(self._open)

    # ------------------------------------------------------------------ judging

    def subject(self, certificate: Certificate, source: str) -> Subject:
        """Whose certificate this is, by our copy of the policy.

        AccessDenied when it is not good; posts the audit event.
        """
        try:
            return judge_certificate(certificate, policy=self._knowledge.policy, now=time.time(), source=source)
        except AccessDenied as error:
            self._refused(certificate, error, source)
            raise

    async def admit(self, certificate: Certificate, target: str, login: str | None, source: str) -> Admitted:
        """May the certificate's user reach ``target`` now, is it here?

        ``target``: name, name.cluster, UUID or k=v. AccessDenied with the truth (or "access denied");
        Unavailable when neither auth nor a copy of its policy is there.
        """
        subject = self.subject(certificate, source)
        try:
            uuid, name = await self._ask(subject, certificate, target, login, source)
        except AccessDenied as error:
            self._log.info("refused", user=subject.user, target=target, code=error.code, reason=error)
            raise
        if self._tunnels.get(uuid) is None:
            raise self._offline(uuid, name, known=True)
        return Admitted(subject, uuid, name, login)

    async def _ask(
        self, subject: Subject, certificate: Certificate, target: str, login: str | None, source: str
    ) -> tuple[str, str]:
        target = target.strip().removesuffix("." + self._knowledge.cluster)
        try:
            return await self._auth.check(certificate.blob, target, login, source)
        except (Unavailable, OperatorError) as error:
            self._log.debug("judging by our own copy", reason=error)
        except AccessDenied as error:
            if error.code != "offline":
                raise
            # Presence takes a moment to reach auth. The node may be back here already, and that is the better
            # word.
            try:
                node = self._judge(subject, target, login)
            except AccessDenied:
                raise error from None
            if self._tunnels.get(node.uuid) is None:
                raise
            return node.uuid, node.name
        try:
            node = self._judge(subject, target, login)
            if self._tunnels.get(node.uuid) is None:
                raise self._offline(node.uuid, node.name)
        except AccessDenied as error:
            self._refused(certificate, error, source, target)
            raise
        return node.uuid, node.name

    async def nodes(
        self, certificate: Certificate, selectors: Sequence[str], search: str, source: str
    ) -> Sequence[Mapping[str, object]]:
        """The nodes that the certificate's user may see. AccessDenied as ``subject``; PeerError for a selector that is
        none; Unavailable when auth does not answer, who alone knows of every proxy's."""
        self.subject(certificate, source)
        try:
            return await self._auth.nodes(certificate.blob, selectors, search, source)
        except OperatorError as error:
            raise Unavailable("the list cannot be had now", detail=str(error), hint="try again in a moment") from None

    def _judge(self, subject: Subject, target: str, login: str | None) -> NodeDocument:
        """Our own answer, from the signed documents."""

        def visible(node: NodeDocument) -> bool:
            return subject.rights.on(node.labels, node.label_items).seen

        node = self._knowledge.locate(target, visible, sees_all=_sees_all(subject))
        self._judge_node(subject, node, login)
        return node

    def _judge_node(self, subject: Subject, node: NodeDocument, login: str | None) -> None:
        """AccessDenied unless the user may be ``login`` there; with None, unless there is some login they may be.

        OpenSSH's -J names a host and no login; the node then decides the login.
        """
        refusal: AccessDenied | None = None
        for candidate in subject.logins if login is None else (login,):
            try:
                decide(subject, login=candidate, node=node, policy=self._knowledge.policy, now=time.time())
            except AccessDenied as error:
                # A lock or a state is the same for all logins, and says more than "not as games".
                if refusal is None or error.code != "denied":
                    refusal = error
            else:
                return
        raise refusal or AccessDenied("access denied", detail=f"{subject.user} has no login")

    def _offline(self, uuid: str, name: str, *, known: bool = False) -> AccessDenied:
        """``known``: auth knew it as online a moment ago, or at another proxy."""
        since = self._tunnels.last_seen.get(uuid)
        if known and since is None:
            return AccessDenied(
                f"node {name} has no connection to this proxy",
                code="offline",
                hint='try again in a moment, or through another proxy ("tctl status" lists them)',
            )
        when = f", last seen {format_duration(time.time() - since)} ago" if since is not None else ""
        error = AccessDenied(
            f"node {name} is offline{when}", code="offline", hint='"tsh ls" shows when it was last seen'
        )
        if since is not None:
            error.extra["since"] = since
        return error

    def _refused(self, certificate: Certificate, error: AccessDenied, source: str, target: str | None = None) -> None:
        """A refusal that auth does not know of yet."""
        name = "auth.failed" if error.code in _STRANGERS else "access.denied"
        user = printable(claimed_name(certificate, self._knowledge.policy), 192)
        self._log.info("refused", key_id=user, source=source, code=error.code, reason=error)
        self._auth.post(name, user=user, source=source, target=target, reason=error.message, detail=error.detail)

    # ------------------------------------------------------------------ what is open

    @contextmanager
    def watched(
        self,
        subject: Subject,
        *,
        node: str | None,
        login: str | None,
        source: str,
        cut: Callable[[str], None],
        cluster: str | None = None,
    ) -> Iterator[None]:
        """While inside, ``cut(reason)`` is called when the policy does not allow this any more, and nobody else has
        ended it within ``CUT_AFTER`` seconds of that.

        ``cluster``: another one, where it goes on to, and which judges what may be done there.
        """
        entry = _Open(subject, node, login, source, cut, cluster)
        self._open.add(entry)
        # The policy may have changed since it was allowed, while a node dialled back.
        self._look(entry, node_changed=False)
        try:
            yield
        finally:
            self._open.discard(entry)
            if entry.ending is not None:
                entry.ending.cancel()

    def _changed(self, uuid: str | None) -> None:
        for entry in list(self._open):
            if uuid is not None and entry.node != uuid:
                continue
            self._look(entry, node_changed=uuid is not None)

    def _look(self, entry: _Open, *, node_changed: bool) -> None:
        if entry.ending is None and self._refusal(entry, node_changed=node_changed) is not None:
            loop = asyncio.get_running_loop()
            entry.ending = loop.call_later(CUT_AFTER, self._end, entry, node_changed)

    def _refusal(self, entry: _Open, *, node_changed: bool) -> AccessDenied | None:
        try:
            self._judge_again(entry, node_changed=node_changed)
        except AccessDenied as error:
            return error
        return None

    def _end(self, entry: _Open, node_changed: bool) -> None:
        entry.ending = None
        error = self._refusal(entry, node_changed=node_changed)
        if error is None:
            return
        self._log.info("session cut", user=entry.subject.user, node=entry.node, reason=error)
        self._auth.post("access.denied", user=entry.subject.user, node=entry.node, reason=f"{REVOKED}: {error.message}")
        entry.cut(f"{REVOKED}: {error.message}")

    def _judge_again(self, entry: _Open, *, node_changed: bool) -> None:
        certificate = entry.subject.certificate
        # A certificate's end does not end what began before it: only a decision does.
        now = min(time.time(), certificate.valid_before - 1)
        policy = self._knowledge.policy.for_who_is_here()
        subject = judge_certificate(certificate, policy=policy, now=now, source=entry.source)
        if entry.cluster is not None and not any(one.name == entry.cluster for one in policy.trusted_clusters):
            raise AccessDenied(f"cluster {entry.cluster} is not known here any more")
        if entry.node is None:
            return
        known = self._knowledge.node(entry.node)
        if known is None:
            if node_changed:
                raise AccessDenied("the node was removed")
            # Auth let them in before its document reached us.
            return
        self._judge_node(subject, known.document, entry.login)


def _sees_all(subject: Subject) -> bool:
    """Then "there is no such node" tells nothing that a list would not."""
    denies = any(role.deny.node_labels and not role.deny.logins for role in subject.roles)
    everything = {WILDCARD: (WILDCARD,)}
    return not denies and any(dict(role.allow.node_labels) == everything for role in subject.roles)

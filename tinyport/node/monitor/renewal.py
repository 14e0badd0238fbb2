"""When certificates are renewed, and the process that does it. Light: the monitor loads it."""

from __future__ import annotations

import json
import os
import time

from tinyport.core.errors import TinyportError
from tinyport.link import http_proxy
from tinyport.link.dial_notice import Bucket
from tinyport.node import identity_view
from tinyport.node.loop import Loop, spread
from tinyport.node.python_process import arguments, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinyport.host.logging_line import Log
    from tinyport.node.loop import Timer

# A share of the certificate's life. Two thirds of seven days leave a device that is off at night 56 hours to do it.
DUE = 2 / 3
LOOK_EVERY = 3600.0
# How long before its end a certificate is renewed whatever the disk does.
LAST_DAY = 86400.0
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 3600.0
# A fleet of a hundred thousand renews within the hour (core.rotation.spread_over).
LONGEST_SPREAD = 3600.0
# Steps of rotations that may follow each other at once, by hand. A link that was taken over can ask for no more.
STEPS = 8
# The system's clock is believed only when it is not before the certificate's own beginning: a board without a clock
# thinks of 1970, or of the day when its image was made.
ANSWER_SIZE = 64 * 1024


def due_at(public: Mapping[str, object]) -> float:
    """Unix seconds at which an identity is due for renewal."""
    after, before = float(str(public["valid_after"])), float(str(public["valid_before"]))
    return after + (before - after) * DUE


class Renewal:
    """``done(view, unsaved)`` is called with fresh memory files once the identity was replaced; the receiver owns them.
    ``unsaved``: why the disk did not take it. ``memory``: the memory file with the identity.
    """

    def __init__(
        self,
        loop: Loop,
        public: Mapping[str, object],
        task: dict[str, object],
        search_path: list[str],
        done: Callable[[tuple[int, int], str], None],
        log: Log,
        memory: int | None = None,
    ) -> None:
        self._memory = memory
        self._loop = loop
        self._public = public
        self._task = task
        self._search_path = search_path
        self._done = done
        self._log = log
        #: cluster time less monotonic time, as auth stated it
        self.offset: float | None = None
        self._pid = 0
        self._view = (-1, -1)
        self._answer = -1
        self._pause = FIRST_PAUSE
        #: how long to wait after a success, which may have been of no use
        self._rest = FIRST_PAUSE
        self._not_before = 0.0
        #: certificates from before are renewed early (Unix seconds of the cluster), at this monotonic time
        self._renew_before = 0.0
        self._renew_at = 0.0
        self._early_timer: Timer | None = None
        #: ``hurry`` was called, and no renewal has begun since; the one that is under way began after it
        self._hurried = False
        self._hurrying = False
        self._steps = Bucket(STEPS, 1 / FIRST_PAUSE, time.monotonic())

    def start(self) -> None:
        self._look()

    def replaced(self, public: Mapping[str, object]) -> None:
        self._public = public

    def now(self) -> float | None:
        """Cluster time as far as it is known; None when only a nonsensical clock is there."""
        if self.offset is not None:
            return time.monotonic() + self.offset
        system = time.time()
        return system if system >= float(str(self._public["valid_after"])) - 86400 else None

    def confirm(self, offset: float) -> None:
        self.offset = offset
        self._if_due()

    def _look(self) -> None:
        self._if_due()
        self._loop.after(LOOK_EVERY, self._look)

    def asked(self, renewal: object) -> None:
        """The policy says [before, within]: certificates from before are to be renewed early, each machine at a moment
        of its own choice within so many seconds. Link passes it on, so it may be anything."""
        if not isinstance(renewal, list) or len(renewal) != 2:
            return
        before, within = (float(item) if _is_number(item) else 0.0 for item in renewal)
        if before <= self._renew_before or before <= self._valid_after:
            return
        self._renew_before = before
        self._renew_at = time.monotonic() + spread(0.0, min(max(within, 0.0), LONGEST_SPREAD))
        self._look_early(self._renew_at - time.monotonic())

    def _look_early(self, seconds: float) -> None:
        if self._early_timer is not None:
            self._early_timer.cancel()
        self._early_timer = self._loop.after(max(0.0, seconds), self._early)

    def _early(self) -> None:
        if not self._asked_for():
            return
        wait = self._not_before - time.monotonic()
        if wait > 0 and self._pause == FIRST_PAUSE and self._steps.take(time.monotonic()):
            # What was renewed a moment ago, in the step before, is from before all the same.
            wait = self._not_before = 0.0
        if wait > 0:
            self._look_early(wait)
        else:
            self.wanted()

    def _asked_for(self) -> bool:
        return self._valid_after < self._renew_before and time.monotonic() >= self._renew_at

    @property
    def _valid_after(self) -> float:
        return float(str(self._public["valid_after"]))

    def _if_due(self) -> None:
        now = self.now()
        if self._asked_for() or self._hurried:
            self.wanted()
        elif now is not None and now >= due_at(self._public):
            self.wanted(may_wait=now < float(str(self._public["valid_before"])) - LAST_DAY)

    def wanted(self, *, may_wait: bool = False) -> None:
        """Renew as soon as the pause after the last failure allows. ``may_wait``: not when no disk takes it."""
        if self._pid or time.monotonic() < self._not_before:
            return
        self._hurrying, self._hurried = self._hurried, False
        self._begin(may_wait)

    def _begin(self, may_wait: bool) -> None:
        self._task["may_wait"] = may_wait
        self._view = identity_view.create()
        self._answer = os.memfd_create("tinyport-answer", os.MFD_CLOEXEC)
        question = os.memfd_create("tinyport-task", os.MFD_CLOEXEC)
        try:
            os.write(question, json.dumps(self._task).encode())
            os.lseek(question, 0, os.SEEK_SET)
            argv = arguments("tinyport.node.enrol", self._search_path)
            memory = [] if self._memory is None else [self._memory]
            self._pid = spawn(argv, [self._answer, question, *self._view, *memory], http_proxy.VARIABLES)
        except OSError as error:
            self._failed(str(error))
            return
        finally:
            os.close(question)
        self._loop.child(self._pid, self._ended)

    def proved(self) -> None:
        """A tunnel stands with what the last renewal brought."""
        self._rest = FIRST_PAUSE

    def hurry(self) -> None:
        """Renew now, whatever the pause: auth has something else to say than it had. By hand, as steps of rotations."""
        self._hurried = True
        if time.monotonic() < self._not_before and self._steps.take(time.monotonic()):
            self._not_before = 0.0
        self.wanted()
        if self._hurried and not self._pid:
            self._loop.after(max(0.0, self._not_before - time.monotonic()) + 1, self._if_due)

    def _ended(self, status: int) -> None:
        self._pid = 0
        if status == 0:
            view, self._view = self._view, (-1, -1)
            unsaved = self._unsaved()
            self._clear()
            self._pause = FIRST_PAUSE
            # Auth's clock and ours may differ about what is due: never twice within minutes. And a proxy that does not
            # take what we have will not take the next one either.
            self._not_before = time.monotonic() + self._rest
            self._rest = min(self._rest * 2, LONGEST_PAUSE)
            self._done(view, unsaved)
            self._hurrying = False
            if self._hurried:
                # Whoever is in a hurry was so after this one began.
                self._loop.after(self._not_before - time.monotonic() + 1, self._if_due)
            # It may have been under way when the next step of a rotation came.
            self._look_early(0.0)
            return
        try:
            answer = json.loads(os.pread(self._answer, ANSWER_SIZE, 0))
            reason = str(answer["error"]["message"])
        except (ValueError, KeyError, TypeError, OSError):
            reason = f"the process ended with status {status}"
        self._failed(reason)

    def _unsaved(self) -> str:
        try:
            return str(json.loads(os.pread(self._answer, ANSWER_SIZE, 0)).get("unsaved") or "")
        except (ValueError, AttributeError, OSError):
            return ""

    def _failed(self, reason: str) -> None:
        self._clear()
        # What somebody is in a hurry for is not had yet.
        self._hurried, self._hurrying = self._hurried or self._hurrying, False
        pause = spread(self._pause / 2, self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause
        self._log.warning("the certificate could not be renewed", reason=reason, next_try=f"{pause:.0f}s")
        self._loop.after(pause + 1, self._if_due)

    def _clear(self) -> None:
        for descriptor in (self._answer, *self._view):
            if descriptor >= 0:
                os.close(descriptor)
        self._answer, self._view = -1, (-1, -1)

    def stop(self) -> None:
        if self._pid:
            self._loop.kill(self._pid, 15)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53


def take(view: tuple[int, int], log: Log) -> dict[str, object] | None:
    """The public half of a fresh view; None when it cannot be read."""
    try:
        return identity_view.read_public(view[0])
    except TinyportError as error:
        log.error("the renewed identity cannot be used", reason=error)
        return None

"""What the disk did not take while it was full, and what must not be forgotten for that.

Logins and access go on then (docs/operations.md). What is lost is a part of the audit log, which is counted and told of
as soon as there is room. What is kept, in memory until auth stops: which codes were used up, and who failed how often.
"""

from __future__ import annotations

from collections.abc import Callable

# Users who exist and whose password was tried with the disk full: a few at a time. Room for an attack on all of them.
MOST_USERS = 10_000


class Unwritten:
    """``now`` is Unix seconds. ``told``: called with the count of events, each time when some more are lost."""

    def __init__(self, told: Callable[[int], None] = lambda count: None) -> None:
        self._told = told
        #: events that are not in the audit log, and of which it does not tell yet
        self.events = 0
        #: those since auth began
        self.events_ever = 0
        #: factor → the last time step of a code that was used
        self._steps: dict[str, int] = {}
        #: user → wrong tries, and until when they are locked out
        self._failures: dict[str, tuple[int, float]] = {}

    def lost_events(self, count: int) -> None:
        self.events += count
        self.events_ever += count
        self._told(count)

    def told_of(self, count: int) -> None:
        """The log tells of so many now."""
        self.events -= count

    def use_step(self, factor: str, step: int) -> None:
        self._steps[factor] = max(step, self._steps.get(factor, 0))

    def was_used(self, factor: str, step: int) -> bool:
        return step <= self._steps.get(factor, 0)

    def failed(self, user: str, most: int, now: float, lock_out: float) -> None:
        """One wrong try more; after ``most`` of them the user waits."""
        tries = self._failures.get(user, (0, 0.0))[0] + 1
        if user in self._failures or len(self._failures) < MOST_USERS:
            self._failures[user] = (0, now + lock_out) if tries >= most else (tries, 0.0)

    def succeeded(self, user: str) -> None:
        self._failures.pop(user, None)

    def locked_out(self, user: str, now: float) -> bool:
        return now < self._failures.get(user, (0, 0.0))[1]

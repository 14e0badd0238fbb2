"""The time a device believes in: what auth said, never earlier than what was once true.

Small boards have no clock of their own; at boot they think it is 1970 or the day of their image. Certificates are
judged
by this clock, never by ``time.time()``.
"""

from __future__ import annotations

# More than drift and latency come to; less than anything that a certificate's life would notice.
SKEW_WORTH_SAYING = 30.0


class ClusterClock:
    """Cluster time from a floor, the system's clock, and what auth confirmed.

    Once auth's time was confirmed, it runs on by the monotonic clock and the system's clock is not asked. Before, the
    system's clock counts when it is later than the floor (the latest time known to be past). Never goes back.
    """

    __slots__ = ("_latest", "_offset")

    def __init__(self, floor: float = 0.0) -> None:
        self._latest = floor
        #: cluster time less monotonic time, once confirmed
        self._offset: float | None = None

    @property
    def confirmed(self) -> bool:
        return self._offset is not None

    def confirm(self, cluster_time: float, monotonic: float) -> None:
        """Auth said it was ``cluster_time`` when the monotonic clock showed ``monotonic``."""
        self._offset = cluster_time - monotonic

    def now(self, system_time: float, monotonic: float) -> float:
        """Unix seconds of the cluster."""
        current = system_time if self._offset is None else monotonic + self._offset
        self._latest = max(self._latest, current)
        return self._latest

    def skew(self, system_time: float, monotonic: float) -> float | None:
        """By how many seconds the system's clock is ahead of the cluster's; None when nothing is confirmed."""
        return None if self._offset is None else system_time - (monotonic + self._offset)

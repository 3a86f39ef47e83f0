"""Who looks at which image: each is shown to one person at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class _Holding:
    until: float
    places: frozenset[int]


class Leases:
    """Images that are held by clients (tabs of a browser), each for so many seconds since it last said that it is there."""

    def __init__(self, seconds: float = 60.0):
        self.seconds = seconds
        self._held: dict[str, _Holding] = {}

    def hold(self, client: str, wanted: Sequence[int], most: int, now: float) -> list[int]:
        """The first `most` of the wanted images that nobody else holds: from now on this client's, in place of what it held before.

        Args:
            client: who asks.
            wanted: places of images, best first.
            most: how many are shown at once.
            now: the time in seconds, of a clock that never goes back.
        """
        taken = self.others(client, now)
        got = [place for place in dict.fromkeys(wanted) if place not in taken][:most]
        self._held[client] = _Holding(now + self.seconds, frozenset(got))
        return got

    def renew(self, client: str, now: float) -> None:
        """The client is still there. What it held and lost meanwhile stays lost."""
        self._forget_past(now)
        if client in self._held:
            self._held[client].until = now + self.seconds

    def others(self, client: str, now: float) -> set[int]:
        """What everybody else holds."""
        self._forget_past(now)
        return {place for who, holding in self._held.items() if who != client for place in holding.places}

    def drop(self, client: str) -> None:
        """The client has gone."""
        self._held.pop(client, None)

    def _forget_past(self, now: float) -> None:
        self._held = {who: holding for who, holding in self._held.items() if holding.until > now}

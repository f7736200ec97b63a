"""Rate limit of a server: requests or tokens a minute."""

import asyncio
import time


class RateLimit:
    """Spaces calls evenly, so that no minute exceeds the limit by more than one call.

    Args:
        per_minute: Units a minute; None for no limit.
    """

    def __init__(self, per_minute: float | None):
        self._seconds = 0.0 if per_minute is None else 60 / per_minute
        self._next = 0.0

    async def wait(self, units: float = 1) -> None:
        """Waits for the turn of a call that takes this number of units."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + units * self._seconds
        if turn > now:
            await asyncio.sleep(turn - now)

"""Where the time of an answer goes: laps by name, in milliseconds."""

import time
from collections.abc import Mapping, Sequence


class Clock:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def add(self, times: Mapping[str, float]) -> None:
        self.times.update(times)

    def lap(self, name: str, *, without: Sequence[str] = ()) -> None:
        """The time since the last lap, less the times that have names of their own already."""
        now = time.perf_counter()
        took = (now - self._last) * 1000 - sum(self.times.get(other, 0.0) for other in without)
        self.times[name] = round(self.times.get(name, 0.0) + max(0.0, took), 2)
        self._last = now

    def done(self) -> dict[str, float]:
        times = {name: value for name, value in self.times.items() if name != "outside"}
        return {**times, "total": round((time.perf_counter() - self._began) * 1000, 2)}

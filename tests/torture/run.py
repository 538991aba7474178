"""`make torture`: the long loops, one line of figures each; exit 1 where anything was lost, doubled or silent."""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from torture import exhaustion, flips, kills, power  # noqa: E402


def main() -> int:
    """Run what was asked for and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--power-states", type=int, default=3000)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--disks", type=int, default=len(exhaustion.SIZES_MB))
    parser.add_argument("--faults", type=int, default=400, help="fail every 7th call of each kind up to this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Rebuilt caches are what these loops are about; a warning for each would drown the figures.
    logging.disable(logging.WARNING)
    loops: dict[str, Callable[[Path], dict[str, object]]] = {}
    if options.kills:
        loops["kills"] = lambda place: kills.kills(place, options.kills, options.seed)
    if options.power_states and power.available():
        loops["power losses"] = lambda place: _power(place, options.power_states, options.seed)
        loops["power losses, synchronous=NORMAL (must lose)"] = lambda place: power.power_losses(
            place, min(100, options.power_states // 2), seed=options.seed, synchronous="NORMAL"
        )
    if options.flips:
        loops["bit flips"] = lambda place: flips.flips(place, options.flips, options.seed)
    if options.pairs:
        loops["rival writers"] = lambda place: exhaustion.rival_writers(place, options.pairs)
    with tempfile.TemporaryDirectory() as base:
        if options.disks and exhaustion.can_mount(Path(base)):
            sizes = exhaustion.SIZES_MB[:: len(exhaustion.SIZES_MB) // options.disks]
            loops["full disks"] = lambda place: exhaustion.full_disks(place, sizes)
        if options.faults and power.available():
            loops["failing calls"] = lambda place: exhaustion.failing_calls(place, limit=options.faults)
        results = {}
        for name, loop in loops.items():
            place = Path(base) / name.split()[0].strip(",") / str(len(results))
            place.mkdir(parents=True)
            started = time.monotonic()
            results[name] = {**loop(place), "seconds": round(time.monotonic() - started, 1)}
            if not options.json:
                figures = {key: value for key, value in results[name].items() if key != "problems"}
                problems = list(results[name]["problems"])  # type: ignore[call-overload]
                print(f"{name}: {figures}, {len(problems)} problems")
                for problem in problems[:10] if "must lose" not in name else []:
                    print(f"    {problem}")
    if options.json:
        print(json.dumps(results, indent=1))
    bad = any(bool(result["problems"]) != ("must lose" in name) for name, result in results.items())
    return int(bad)


def _power(place: Path, states: int, seed: int) -> dict[str, object]:
    """Several runs, because one run of the writer visits only some orders of calls."""
    total: dict[str, object] = {"states": 0, "calls": 0, "acknowledged": 0, "problems": []}
    runs = max(1, states // 300)
    for number in range(runs):
        folder = place / str(number)
        folder.mkdir()
        result = power.power_losses(folder, states // runs, seed=seed * 1000 + number)
        for key, value in result.items():
            total[key] = total[key] + value  # type: ignore[operator]
    return total


if __name__ == "__main__":
    sys.exit(main())

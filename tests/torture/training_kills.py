"""SIGKILL at random moments of a training: it must end with the weights and figures of one that nobody disturbed, bit
for bit. `python tests/torture/training_kills.py --kills 50` prints its figures; exit 1 where anything differs."""

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def preload() -> None:
    """What a training imports takes 10 seconds of a core: once, here; the sessions are forks. No torch operation may
    run in this process, since its threads would not be there after a fork."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from made_orders import made_model  # noqa: F401

    import adapt.forgetting.anchors
    import adapt.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def in_fork(work: Callable[[], None]) -> int:
    """The process that does it, and ends with 0 where it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return pid


def ends_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def session(folder: Path, rows: int) -> None:
    """Train the tiny model of `made_orders` to the end, from wherever an earlier process was killed."""
    from made_orders import job_in, made_order, quiet
    from transformers import AutoTokenizer

    from adapt.recipe import Anchor, Dapt, Keep, LearningRate
    from adapt.training.train import train

    settings = Dapt(
        block=32,
        batch_tokens=128,
        micro_tokens=64,
        precision="fp32",
        lr=LearningRate(peak=3e-3),
        checkpoint_steps=2,
        keep=Keep(l2sp=Anchor(weight=0.1)),
    )
    order = made_order(AutoTokenizer.from_pretrained(folder / "base"), rows=rows)
    train(job_in(folder, folder / "base", settings), progress=quiet, order=order)


def state(folder: Path) -> tuple[int, bool]:
    """(steps that stand in metrics.jsonl, whether a checkpoint is being written at this moment)."""
    file = folder / "run" / "metrics.jsonl"
    steps = file.read_bytes().count(b"\n") if file.is_file() else 0
    return steps, any((folder / "run" / "checkpoints").glob(".making-*"))


def one_kill(folder: Path, rows: int, chance: random.Random, further: int) -> tuple[str, bool]:
    """(in the middle of what it was killed, whether it had come to its end before)."""
    before, _ = state(folder)
    pid = in_fork(lambda: session(folder, rows))
    kind = chance.choice(["loading", "training", "training", "training", "writing", "writing"])
    wanted = before + chance.randint(1, further)
    deadline = time.monotonic() + (chance.uniform(0, 0.5) if kind == "loading" else 120)
    ended = False
    while not ended and time.monotonic() < deadline:
        steps, writing = state(folder)
        if kind != "loading" and steps >= wanted and (kind == "training" or writing):
            break
        time.sleep(0.0005)
        ended = os.waitpid(pid, os.WNOHANG) != (0, 0)
    if not ended:
        time.sleep(chance.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return kind, ended


def kills(place: Path, count: int, seed: int = 1) -> dict[str, Any]:
    """`count` kills of one training, and the same training undisturbed."""
    from made_orders import made_model, weights_of

    preload()
    chance = random.Random(seed)
    further = 6
    rows = 4 * (count * further + 10)
    whole, torn = place / "whole", place / "torn"
    problems: list[str] = []
    for folder in (whole, torn):
        if not ends_well(in_fork(lambda: made_model(folder / "base") and None)):  # noqa: B023
            return {"kills": 0, "problems": ["no model could be made"]}
    if not ends_well(in_fork(lambda: session(whole, rows))):
        return {"kills": 0, "problems": ["the undisturbed training failed"]}
    done: dict[str, int] = {}
    for number in range(count):
        kind, ended = one_kill(torn, rows, chance, further)
        if ended:
            problems.append(f"kill {number}: the session had ended by itself")
        done[kind] = done.get(kind, 0) + 1
    if not ends_well(in_fork(lambda: session(torn, rows))):
        problems.append("the training does not come to an end after the last kill")
        return {"kills": count, "where": done, "problems": problems}
    one, other = (weights_of(folder / "run" / "model") for folder in (whole, torn))
    problems += [f"'{name}' differs" for name in one if name not in other or not (one[name] == other[name]).all()]
    figures = [
        [
            {key: value for key, value in json.loads(line).items() if key not in ("seconds", "tokens_per_second")}
            for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (whole, torn)
    ]
    if figures[0] != figures[1]:
        problems.append(f"metrics.jsonl has {len(figures[1])} lines for {len(figures[0])}, or other figures")
    problems += [f"left over: {path}" for path in (torn / "run").rglob(".*making*")]
    return {"kills": count, "where": done, "steps": len(figures[1]), "problems": problems}


def main() -> int:
    """Kill as often as was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        started = time.monotonic()
        result = kills(Path(place), options.kills, options.seed)
        print(json.dumps({**result, "seconds": round(time.monotonic() - started, 1)}))
    return int(bool(result["problems"]))


if __name__ == "__main__":
    sys.exit(main())

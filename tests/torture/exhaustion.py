"""Full disks, failing system calls, rival writers: a clear sentence, nothing saved is lost, the next command works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from torture.kills import checked, in_child, read_lines
from torture.workload import churn, create, speak_to, state_after

from retrieval.collection import Collection
from retrieval.errors import BusyError, FathomError

SIZES_MB = (1, 1.5, 2, 2.5, 3, 4, 6, 8)


def can_mount(folder: Path) -> bool:
    """Whether a small tmpfs may be mounted here."""
    probe = folder / "probe"
    probe.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(probe)], capture_output=True, check=False
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(probe)], check=True)
    return done.returncode == 0


def full_disks(folder: Path, sizes: tuple[float, ...] = SIZES_MB) -> dict[str, object]:
    """Write until the disk is full; check while it is full, and again after it was made larger."""
    problems: list[str] = []
    sentences: set[str] = set()
    for number, size in enumerate(sizes):
        place = folder / f"disk{number}"
        place.mkdir()
        options = f"size={int(size * 1024)}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        try:
            problems += [f"{size} MB: {p}" for p in _one_full_disk(place, sentences, number)]
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    return {"disks": len(sizes), "sentences": sorted(sentences), "problems": problems}


def _one_full_disk(place: Path, sentences: set[str], seed: int) -> list[str]:
    create(place / "torture")
    hog = place / "hog"

    def work(out: int) -> None:
        say = speak_to(out)
        try:
            churn(place / "torture", seed, say, steps=6)
            free = os.statvfs(place)
            # Fill the disk up to a random remainder, so that the end comes at another step each time.
            hog.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 4096 * (20 + 35 * (seed % 5)))))
            churn(place / "torture", seed + 1000, say, steps=400)
        except FathomError as error:
            say({"refused": str(error)})
        except OSError as error:
            say({"refused": f"OSError: {error}"})

    pid, pipe = in_child(work)
    lines = read_lines(pipe)
    os.close(pipe)
    os.waitpid(pid, 0)
    problems = [str(line["error"]) for line in lines if "error" in line]
    said = [str(line["refused"]) for line in lines if "refused" in line]
    sentences.update(s.replace(str(place), "…")[:120] for s in said)
    problems += [f"not in words: {s}" for s in said if "disk is full" not in s]
    state, under_way = state_after(lines, {})
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    hog.unlink(missing_ok=True)
    found, _ = checked(place / "torture", state, under_way)
    return problems + found


def rival_writers(folder: Path, pairs: int) -> dict[str, object]:
    """Two writers at once, again and again: one works, the other is told who does; a killed one never blocks."""
    create(folder / "torture")
    problems: list[str] = []
    refused = 0
    for number in range(pairs):
        first, out = in_child(lambda pipe, n=number: churn(folder / "torture", n, speak_to(pipe)))
        if not _says_ready(out):
            problems.append(f"pair {number}: the first writer never came up")
        try:
            with Collection.open(folder / "torture", write=True, doing="second"):
                problems.append(f"pair {number}: both writers got in")
        except BusyError as error:
            refused += 1
            if f"process {first} (writing)" not in str(error):
                problems.append(f"pair {number}: {error}")
        os.kill(first, 9)
        os.waitpid(first, 0)
        os.close(out)
        try:
            Collection.open(folder / "torture", write=True, doing="third").close()
        except FathomError as error:
            problems.append(f"pair {number}: after the kill: {error}")
    return {"pairs": pairs, "refused": refused, "problems": problems}


def _says_ready(descriptor: int) -> bool:
    with os.fdopen(os.dup(descriptor)) as pipe:
        return "ready" in pipe.readline()


# Not write(): standard output carries the announcements.
FAULTS = ("fsync:error=EIO", "fdatasync:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:error=EIO", "rename:error=EIO")


def failing_calls(folder: Path, every: int = 7, limit: int = 400, seed: int = 3) -> dict[str, object]:
    """Make the n-th call of each kind fail, for every `every`-th n up to `limit`; what was acknowledged must stay."""
    script = Path(__file__).with_name("workload.py")
    root = script.parents[2]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    problems: list[str] = []
    runs = hit = 0
    for fault in FAULTS:
        for number in range(1, limit, every):
            place = folder / "faulty"
            shutil.rmtree(place, ignore_errors=True)
            create(place / "torture")
            call = fault.split(":")[0]
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
            command += ["-e", f"inject={fault}:when={number}"]
            command += [sys.executable, str(script), str(place / "torture"), str(seed), "10"]
            done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
            lines = [json.loads(line) for line in done.stdout.split(b"\n")[:-1] if line.startswith(b"{")]
            runs += 1
            hit += done.returncode != 0
            state, under_way = state_after(lines, {})
            found, _ = checked(place / "torture", state, under_way)
            problems += [f"{fault} at {number}: {problem}" for problem in found]
            if done.returncode == 0 and number > 50:
                # The run makes fewer calls of this kind than that.
                break
    return {"runs": runs, "failed as they should": hit, "problems": problems}

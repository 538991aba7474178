"""A training job → the same job in several processes on this machine, which share its batches.

torchrun's own agent starts them and brings all down when one falls. Several machines: the same command on each, as in
docs/scale.md. It knows nothing of what is trained.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from adapt.training.job import TrainingJob, TrainingResult
from adapt.training.metrics import NAME, read
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json
from retrieval.errors import FathomError

JOB, OUTCOME, STOP, LOG = "job.json", "outcome.json", "stop", "processes.log"
SECONDS_TO_STOP = 600.0
"""Between SIGTERM and SIGKILL: a step's end and a checkpoint of a large model."""
_ROOT = Path(__file__).resolve().parents[2]


def command(job: Path, processes: int) -> list[str]:
    """What starts the processes on this machine. The port is a free one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    return [*launcher, f"--nproc-per-node={processes}", "-m", "adapt.training.worker", str(job)]


def launch(job: TrainingJob, processes: int, *, progress: Progress, stop: threading.Event) -> TrainingResult:
    """Train in `processes` processes and wait. Their words go to processes.log in the job's folder.

    Raises FathomError with the first process's own sentence where the training failed.
    """
    file = job.folder / JOB
    job.write(file)
    outcome = job.folder / OUTCOME
    for earlier in (outcome, job.folder / STOP):
        earlier.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))),
    }
    with (job.folder / LOG).open("ab") as log:
        agent = subprocess.Popen(
            command(file, processes), stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            _watch(agent, job, progress, stop)
        finally:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
    if not outcome.is_file():
        tail = (job.folder / LOG).read_text("utf-8", errors="replace").strip().splitlines()[-1:]
        raise FathomError(
            f"the training's processes ended with {agent.returncode} and no result ({''.join(tail)[:200]}); "
            f"{job.folder / LOG} has the rest; run again to go on from the last checkpoint"
        )
    if "error" in (told := read_json(outcome)):
        raise FathomError(str(told["error"]))
    return TrainingResult.read(outcome)


def _watch(agent: subprocess.Popen, job: TrainingJob, progress: Progress, stop: threading.Event) -> None:
    """Until it ends; hand the wish to stop down, and report the steps that metrics.jsonl has."""
    asked = None
    while agent.poll() is None:
        if stop.is_set() and asked is None:
            asked = time.monotonic()
            # By a file: torchrun's agent kills its processes half a minute after it is told to stop itself.
            (job.folder / STOP).touch()
        if asked is not None and time.monotonic() - asked > SECONDS_TO_STOP:
            return
        lines = read(job.folder / NAME)
        if lines:
            progress("training", int(lines[-1]["tokens"]), 0)
        stop.wait(1.0) if asked is None else time.sleep(0.5)

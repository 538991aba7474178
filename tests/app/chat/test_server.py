"""The whole web application as uvicorn gets it, and the socket it listens on."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.chat.engine import BackgroundEngine, only
from app.chat.parts import Parts
from app.chat.server import build_app, listen
from app.chat.talking import Chat
from retrieval.errors import BusyError, UsageError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    def nothing(*_: Any, **__: Any) -> Iterator[Any]:
        return iter(())

    engine = BackgroundEngine(lambda: (object(), "scripted"))
    parts = Parts(lambda: ["default"], lambda name: [], nothing, only(engine), 8)
    with TestClient(build_app(Chat(parts)), base_url="http://127.0.0.1:7860") as made:
        yield made


def test_health_says_version_and_engine(client: TestClient) -> None:
    answer = client.get("/health").json()
    assert answer["ok"] is True and answer["version"] and answer["engine"] in ("loading", "ready")


def test_the_page_loads_with_its_policy_and_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for outside in ("googleapis", "gstatic", "cdn.", "unpkg", "jsdelivr", "huggingface.co/"):
        assert outside not in page.text.split("window.gradio_config")[0], outside
    assert client.get("/theme.css").status_code == 200
    assert not re.search(r"""url\(["']?(?:https?:)?//""", client.get("/theme.css").text)


def test_the_configuration_shown_to_the_browser_names_no_file_and_no_outside_analytics(client: TestClient) -> None:
    config = client.get("/config")
    assert config.status_code == 200
    assert config.json()["analytics_enabled"] is False
    assert str(ROOT) not in config.text and str(Path.home()) + "/" not in config.text


def test_no_event_is_offered_as_an_api(client: TestClient) -> None:
    visible = [item for item in client.get("/config").json()["dependencies"] if item.get("api_visibility") == "public"]
    assert visible == []
    for path in ("/gradio_api/info", "/openapi.json", "/gradio_api/call/ask", "/docs"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "example.org"])
def test_only_this_machine_is_served(host: str) -> None:
    with pytest.raises(UsageError, match="this machine only"):
        listen(host, 7860)


def test_a_port_in_use_is_said_in_words() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} is in use"):
            listen("127.0.0.1", port)


def test_importing_the_server_turns_telemetry_off() -> None:
    names = ["GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "DO_NOT_TRACK"]
    code = f"import app.chat.server, os; print([os.environ[name] for name in {names}])"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "HF_", "DO_NOT"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['False', '1', '1']"

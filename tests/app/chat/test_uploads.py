"""Documents added over HTTP behind the guard: streamed, read in child processes, indexed, or refused in words."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fakes import HashingEmbedder
from fastapi import FastAPI
from made_pdfs import lines_of, pdf_of
from starlette.testclient import TestClient

from app import build
from app.chat.document_words import CHINESE
from app.chat.guard import Guard
from app.chat.upload_routes import FILE_TYPE, add_upload_routes
from app.chat.uploads import Job, Uploads
from app.settings import Settings, load_settings
from app.upload_limits import UploadLimits
from retrieval.passages import Document

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
HOME = "http://127.0.0.1:7860"
TEXT = b"# Tides\n\nSpring tides come at full moon and at new moon.\n"
AS_FILE = {"content-type": FILE_TYPE}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    fake = HashingEmbedder()
    monkeypatch.setattr(build, "embedder", lambda settings: lambda: fake)
    return load_settings(tmp_path / "w", environment={})


class House:
    """A client of the routes and the uploads behind them."""

    def __init__(self, settings: Settings, limits: UploadLimits) -> None:
        self.settings = settings
        self.uploads = Uploads(settings, build.embedder(settings), limits)
        api = FastAPI(openapi_url=None)
        add_upload_routes(api, self.uploads)
        self.app = Guard(api, max_file=self.uploads.file_mb << 20)
        self.client = TestClient(self.app, base_url=HOME)
        self.client.__enter__()

    def begin(self, collection: str = "default") -> str:
        answer = self.client.post("/uploads/jobs", params={"collection": collection})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def send(self, job: str, name: str, data: bytes, **options: Any) -> dict[str, Any]:
        url = f"/uploads/jobs/{job}/files"
        answer = self.client.post(url, params={"name": name}, content=data, headers=AS_FILE | options)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, job: str, **headers: str) -> dict[str, Any]:
        for _ in range(600):
            data = self.client.get(f"/uploads/jobs/{job}", headers=headers).json()
            if not data["open"] or data["state"] == "busy":
                return dict(data)
            time.sleep(0.05)
        raise AssertionError(f"the job does not end: {data}")

    def add(self, files: dict[str, bytes], collection: str = "default", **headers: str) -> dict[str, Any]:
        job = self.begin(collection)
        for name, data in files.items():
            self.send(job, name, data)
        self.client.post(f"/uploads/jobs/{job}/start")
        return self.wait(job, **headers)

    def kept(self) -> list[Path]:
        """Files that lie in the upload folder now."""
        return [path for path in self.uploads.area.folder.rglob("*") if path.is_file() and path.name != ".lock"]

    def documents(self, collection: str = "default") -> dict[str, str]:
        with build.open_collection(self.settings, collection) as opened:
            return {row.source.uri: opened.document(row.source.id).text for row in opened.documents()}


@pytest.fixture
def open_house(settings: Settings) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**limits: Any) -> House:
        made.append(House(settings, UploadLimits(**({"free_mb": 1} | limits))))
        return made[-1]

    yield make
    for house in made:
        house.uploads.close()
        house.client.__exit__(None, None, None)


def test_files_are_indexed_and_bad_ones_refused_one_by_one(open_house: Callable[..., House]) -> None:
    house = open_house()
    done = house.add(
        {
            "tides.md": TEXT,
            "notes/rules.pdf": pdf_of(lines_of("A line has 79 letters.")),
            "empty.txt": b"",
            "picture.md": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
            "old.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "broken.pdf": b"%PDF-1.7\nnothing",
            "film.mp4": b"whatever",
            "潮汐.txt": "大潮出现在满月和新月。".encode(),
            "..": b"no name",
        }
    )
    assert (done["state"], done["new"], done["indexed"], done["refused"]) == ("done", True, 3, 6)
    reasons = {file["name"]: file["reason"] for file in done["files"] if file["state"] == "refused"}
    assert reasons == {
        "empty.txt": "empty", "picture.md": "binary", "old.docx": "unsupported", "broken.pdf": "corrupt",
        "film.mp4": "unsupported", "…": "name",
    }  # fmt: skip
    assert all(file["message"].endswith(".") for file in done["files"] if file["state"] == "refused")
    assert all(file["passages"] == 1 for file in done["files"] if file["state"] == "indexed")
    texts = house.documents()
    assert texts.keys() == {"uploads/tides.md", "uploads/notes/rules.pdf", "uploads/潮汐.txt"}
    assert "Spring tides" in texts["uploads/tides.md"]
    with build.open_collection(house.settings, "default") as opened:
        hit = opened.search("When do spring tides come?", k=1).hits[0]
        assert hit.source.uri == "uploads/tides.md" and hit.source.title == "Tides"
        (row,) = [row for row in opened.documents() if row.source.format == "pdf"]
        assert hashlib.blake2b(Path(row.path).read_bytes(), digest_size=16).hexdigest() == row.content_hash
    assert len(house.kept()) == 3, "what was refused is not kept"


def test_refusals_are_told_in_chinese_too(open_house: Callable[..., House]) -> None:
    done = open_house().add({"a.txt": b"", "b.mp4": b"x"}, **{"accept-language": "zh"})
    assert [file["message"] for file in done["files"]] == [CHINESE.reasons["empty"], CHINESE.reasons["unsupported"]]


def test_when_everything_is_refused_no_collection_is_made(open_house: Callable[..., House]) -> None:
    house = open_house()
    assert house.add({"a.txt": b" \n "}, "new")["state"] == "done"
    assert build.collection_names(house.settings) == [] and house.kept() == []


def test_a_file_of_the_same_name_takes_the_place_of_the_older(open_house: Callable[..., House]) -> None:
    house = open_house()
    house.add({"a.md": TEXT, "b.md": TEXT})
    done = house.add({"a.md": b"# Neap tides\n\nThey are low."})
    assert done["indexed"] == 1 and not done["new"]
    assert "Neap tides" in house.documents()["uploads/a.md"] and len(house.documents()) == 2
    assert sorted(path.read_bytes() for path in house.kept()) == sorted([TEXT, b"# Neap tides\n\nThey are low."])


def test_of_two_files_of_one_name_in_one_job_the_later_counts(open_house: Callable[..., House]) -> None:
    house = open_house()
    job = house.begin()
    house.send(job, "a.md", b"first")
    house.send(job, "a.md", b"second")
    house.client.post(f"/uploads/jobs/{job}/start")
    assert [file["reason"] for file in house.wait(job)["files"]] == ["twice", ""]
    assert house.documents() == {"uploads/a.md": "second"}


def test_a_document_that_came_from_elsewhere_is_not_replaced(open_house: Callable[..., House]) -> None:
    house = open_house()
    with build.open_or_create(house.settings, "default", wait=0, doing="testing") as opened:
        opened.add([Document("uploads/a.md", "made by a program")])
    assert house.add({"a.md": TEXT, "b.md": TEXT})["files"][0]["reason"] == "taken"
    assert house.documents()["uploads/a.md"] == "made by a program"


def test_a_busy_collection_is_said_and_tried_again(open_house: Callable[..., House]) -> None:
    house = open_house(busy_seconds=0.1)
    house.add({"a.md": TEXT})
    with build.open_collection(house.settings, "default", write=True, doing="other work"):
        waiting = house.add({"b.md": TEXT})
        assert waiting["state"] == "busy" and "another program" in waiting["message"].lower()
    assert house.client.post(f"/uploads/jobs/{waiting['id']}/start").status_code == 200
    assert house.wait(waiting["id"])["indexed"] == 1


def test_a_job_is_stopped_and_leaves_nothing_half(open_house: Callable[..., House]) -> None:
    house = open_house()
    house.add({"a.md": TEXT})
    job = house.begin()
    for number in range(30):
        house.send(job, f"{number}.md", TEXT + str(number).encode())
    house.client.post(f"/uploads/jobs/{job}/start")
    house.client.post(f"/uploads/jobs/{job}/cancel")
    done = house.wait(job)
    assert done["state"] == "cancelled"
    indexed = {f"uploads/{file['name']}" for file in done["files"] if file["state"] == "indexed"}
    assert house.documents().keys() == indexed | {"uploads/a.md"}
    assert len(house.kept()) == 1 + len(indexed)
    before = house.begin()
    house.send(before, "x.md", TEXT)
    assert house.client.post(f"/uploads/jobs/{before}/cancel").json()["state"] == "cancelled"
    assert len(house.kept()) == 1 + len(indexed)
    assert (
        house.client.post(f"/uploads/jobs/{before}/files?name=y.md", content=b"x", headers=AS_FILE).status_code == 400
    )


# --- who may, and how much ------------------------------------------------------------------------------------------


def test_another_site_can_neither_begin_nor_send(open_house: Callable[..., House]) -> None:
    house = open_house()
    job = house.begin()
    for url in ("/uploads/jobs?collection=x", f"/uploads/jobs/{job}/files?name=a.md", f"/uploads/jobs/{job}/start"):
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert house.client.post(url, content=b"x", headers=AS_FILE | headers).status_code == 403
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""):
        answer = house.client.post(f"/uploads/jobs/{job}/files?name=a.md", content=b"x", headers={"content-type": kind})
        assert answer.status_code == 415
    assert house.client.options(f"/uploads/jobs/{job}/files").status_code == 405
    assert house.kept() == [] and house.client.get(f"/uploads/jobs/{job}").json()["files"] == []


@pytest.mark.parametrize(
    "path",
    ["/uploads/jobs/" + "0" * 32, "/uploads/jobs/%2e%2e/x", "/uploads/default/00001.md",
     "/uploads/jobs/" + "A" * 32, "/uploads/", "/uploads/jobs/" + "0" * 32 + "/files/x", "/uploads/.lock"],
)  # fmt: skip
def test_what_is_no_job_is_not_found_and_no_file_is_served(open_house: Callable[..., House], path: str) -> None:
    house = open_house()
    house.add({"a.html": b"<script>alert(1)</script><p>text</p>"})
    assert house.client.get(path).status_code == 404
    assert house.client.post(path + "/files?name=a.md", content=b"x", headers=AS_FILE).status_code == 404


def test_names_that_can_be_no_collection_are_refused_in_words(open_house: Callable[..., House]) -> None:
    house = open_house()
    for name in ("", "..", "a/b", "../x", "a" * 61, ".x", "a\x00"):
        answer = house.client.post("/uploads/jobs", params={"collection": name})
        assert answer.status_code == 400 and "cannot name a collection" in answer.json()["error"]
    assert not (house.settings.workspace / "uploads").exists()


def test_limits_of_jobs_and_files(open_house: Callable[..., House]) -> None:
    house = open_house(jobs=2, files=2, file_mb=1)
    job, _ = house.begin(), house.begin()
    answer = house.client.post("/uploads/jobs?collection=default")
    assert answer.status_code == 503 and "try again" in answer.json()["error"]
    house.send(job, "a.md", TEXT)
    house.send(job, "b.md", TEXT)
    answer = house.client.post(f"/uploads/jobs/{job}/files?name=c.md", content=b"x", headers=AS_FILE)
    assert answer.status_code == 400 and "up to 2 files" in answer.json()["error"]
    assert house.client.post(f"/uploads/jobs/{job}/start").status_code == 200
    assert house.wait(job)["indexed"] == 2
    assert house.client.post(f"/uploads/jobs/{job}/start").status_code == 400


def test_a_job_that_nobody_starts_makes_room(open_house: Callable[..., House]) -> None:
    house = open_house(jobs=1, idle_seconds=0.05)
    house.send(house.begin(), "a.md", TEXT)
    time.sleep(0.1)
    house.begin()
    assert house.kept() == []


def test_a_file_above_the_limit_is_stopped_at_it(open_house: Callable[..., House]) -> None:
    house = open_house(file_mb=1, total_mb=3)
    job = house.begin()
    url = f"/uploads/jobs/{job}/files?name=a.md"
    big = {"content-length": str(300 << 20)}
    assert house.client.post(url, content=b"x", headers=AS_FILE | big).status_code == 413
    seen = 0

    async def pieces() -> Any:
        nonlocal seen
        for _ in range(300 * 16):
            seen += 1
            yield b"x" * 65_536

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=house.app)
        async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
            return await client.post(url, content=pieces(), headers=AS_FILE)

    answer = asyncio.run(send())
    assert answer.status_code == 413 or answer.json()["reason"] in ("too-large", "incomplete")
    assert seen <= 20 and house.kept() == []
    assert house.send(job, "b.md", b"x" * (1 << 20))["state"] == "queued"
    house.send(job, "c.md", b"y" * (1 << 20))
    house.send(job, "d.md", b"z" * (1 << 20))
    assert house.send(job, "e.md", b"q")["reason"] == "quota"


def test_a_sender_that_stalls_is_given_up(open_house: Callable[..., House]) -> None:
    house = open_house(stalled_seconds=0.2)
    job = house.begin()

    async def pieces() -> Any:
        yield b"begin"
        await asyncio.sleep(30)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=house.app)
        async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
            url = f"/uploads/jobs/{job}/files?name=a.md"
            return await asyncio.wait_for(client.post(url, content=pieces(), headers=AS_FILE), 10)

    assert asyncio.run(send()).json()["reason"] == "incomplete"
    assert house.kept() == []


# --- a server that is killed ----------------------------------------------------------------------------------------


def serve(workspace: Path, kind: str = "plain") -> tuple[subprocess.Popen[bytes], str]:
    """The real server over `workspace` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, str(HERE / "documents_page.py"), str(port), str(workspace), kind],
        env={**os.environ, "PYTHONPATH": path},
    )
    for _ in range(240):
        assert process.poll() is None, "the server did not start"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            break
        except OSError:
            time.sleep(0.25)
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_a_killed_server_leaves_each_document_whole_or_not_at_all(settings: Settings) -> None:
    files = {f"{number}.md": f"# Part {number}\n\n" + f"word{number} " * 400 for number in range(40)}
    process, url = serve(settings.workspace)
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            job = client.post("/uploads/jobs?collection=default").json()["id"]
            for name, text in files.items():
                client.post(f"/uploads/jobs/{job}/files?name={name}", content=text.encode(), headers=AS_FILE)
            client.post(f"/uploads/jobs/{job}/start")
            while client.get(f"/uploads/jobs/{job}").json()["files"][20]["state"] == "queued":
                time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    left = set((settings.workspace / "uploads").rglob("*.md"))
    assert left, "it was killed in the middle"
    again = Uploads(settings, build.embedder(settings), UploadLimits(free_mb=1))
    again.close()  # waits for the cleaning
    found = {}
    if build.collection_exists(settings, "default"):
        with build.open_collection(settings, "default") as opened:
            found = {row.source.uri: (opened.document(row.source.id).text, row.path) for row in opened.documents()}
    assert all(text == files[uri.removeprefix("uploads/")].rstrip() for uri, (text, _) in found.items())
    kept = {str(path) for path in (settings.workspace / "uploads").rglob("*.md")}
    assert kept == {path for _, path in found.values()}, "leftovers are deleted, originals of documents stay"


@pytest.mark.slow
def test_a_large_body_is_neither_kept_in_memory_nor_read_to_its_end(settings: Settings) -> None:
    process, url = serve(settings.workspace)
    try:
        watched = psutil.Process(process.pid)
        job = httpx.post(f"{url}/uploads/jobs?collection=default").json()["id"]
        before = watched.memory_info().rss
        host, port = url.removeprefix("http://").split(":")
        sent = 0
        with socket.create_connection((host, int(port)), timeout=20) as wire:
            head = f"POST /uploads/jobs/{job}/files?name=a.md HTTP/1.1\r\nHost: {host}:{port}\r\n"
            wire.sendall(f"{head}Content-Type: {FILE_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
            try:
                for _ in range(300 * 16):
                    wire.sendall(piece)
                    sent += 65_536
            except OSError:
                pass  # the server hung up, as it should
        assert watched.memory_info().rss - before < 60 << 20
        assert not list((settings.workspace / "uploads").rglob("*.md"))
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            assert json.load(answer)["ok"]
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)


def test_closing_in_the_middle_of_a_job_ends_it(open_house: Callable[..., House]) -> None:
    house = open_house()
    job = house.begin()
    for number in range(20):
        house.send(job, f"{number}.md", TEXT + str(number).encode())
    house.client.post(f"/uploads/jobs/{job}/start")
    ended = threading.Thread(target=house.uploads.close)
    ended.start()
    ended.join(20)
    assert not ended.is_alive()
    found: Job = house.uploads.job(job)
    assert found.state in ("cancelled", "done")

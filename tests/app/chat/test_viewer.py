"""The viewer's routes behind the guard: windows of text, places on pages, pictures, and what is refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fakes import HashingEmbedder
from fastapi import FastAPI
from made_pdfs import lines_of, pdf_of
from starlette.testclient import TestClient

from app import build
from app.chat.document_words import CHINESE, ENGLISH, as_json
from app.chat.guard import Guard
from app.chat.viewer import Documents, ViewLimits, add_document_routes
from app.chat.wiring import Shelf
from app.settings import load_settings
from retrieval.passages import Document
from retrieval.reading.reader import Reader
from retrieval.syncing import sync

GUIDE = "# Guide\n\n" + "".join(f"## Part {n}\n\nLine of part {n} 😀 and 行长度 of it.\n\n" for n in range(400))


@dataclass
class House:
    """A client of the routes, the folder that was synced, and the ids of its documents."""

    client: TestClient
    folder: Path
    ids: dict[str, int]
    texts: dict[str, str]

    def get(self, name: str, rest: str = "", **values: object) -> Any:
        return self.client.get(f"/documents/{quote('资料')}/{self.ids[name]}{rest}", params=values)  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    fake = HashingEmbedder()
    monkeypatch.setattr(build, "embedder", lambda settings: lambda: fake)
    settings = load_settings(tmp_path / "w", environment={})
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE, encoding="utf-8")
    (folder / "rules.pdf").write_bytes(pdf_of(lines_of("First page."), "", lines_of("A line has 79 letters.", "More.")))
    with build.open_or_create(settings, "资料", wait=0, doing="testing") as opened, Reader() as reader:
        sync(opened, folder, reader)
        opened.add([Document("hidden.txt", "seen \u202ehidden\u2066 \x07bell")])
        ids = {row.source.uri: row.source.id for row in opened.documents()}
        texts = {uri: opened.document(number).text for uri, number in ids.items()}
    shelf = Shelf(settings)
    documents = Documents(shelf.collection, settings.reading, ViewLimits(around=500, window=2_000))
    api = FastAPI(openapi_url=None)
    add_document_routes(api, documents)
    with TestClient(Guard(api), base_url="http://127.0.0.1:7860") as client:
        yield House(client, folder, ids, texts)
    documents.close()
    shelf.close()


def test_text_around_a_passage_with_its_place(house: House) -> None:
    start = house.texts["guide.md"].index("Line of part 200")
    data = house.get("guide.md", start=start, end=start + 10).json()
    assert data["text"] == house.texts["guide.md"][data["from"] : data["to"]]
    assert start - 900 <= data["from"] <= start - 500 and data["to"] >= start + 510
    assert data["path"] == ["Guide", "Part 200"] and data["title"] == "Guide" and data["pages"] == 0
    assert all(house.texts["guide.md"][at : at + 2] == "##" for at, level in data["headings"] if level == 2)
    assert data["length"] == len(house.texts["guide.md"])


def test_windows_join_without_a_gap_and_have_a_limit(house: House) -> None:
    whole, low = "", 0
    while low < len(house.texts["guide.md"]):
        data = house.get("guide.md", low=low, high=10**9).json()
        assert data["from"] == low and data["to"] - low <= 2_000
        whole, low = whole + data["text"], data["to"]
    assert whole == house.texts["guide.md"]
    assert house.get("guide.md", start=-5, end=10**12).json()["from"] == 0


def test_characters_that_hide_or_reorder_are_shown_as_such(house: House) -> None:
    text = house.get("hidden.txt").json()["text"]
    assert text == "seen \ufffdhidden\ufffd \ufffdbell"


def test_a_quote_on_its_page(house: House) -> None:
    text = house.texts["rules.pdf"]
    start = text.index("79 letters")
    assert house.get("rules.pdf", start=start, end=start + 10).json()["page"] == 3
    found = house.get(
        "rules.pdf", "/pages/3", passage=f"{start - 5}-{len(text)}", quotes=f"{start}-{start + 10}"
    ).json()
    assert found["pages"] == 3 and found["unplaced"] == 0
    (box,) = found["quotes"]
    assert 0.1 < box[0] < box[2] < 0.4 and 0.05 < box[1] < box[3] < 0.12
    assert len(found["passage"]) == 2
    elsewhere = house.get("rules.pdf", "/pages/1", quotes=f"{start}-{start + 10}").json()
    assert elsewhere["quotes"] == [] and elsewhere["unplaced"] == 0
    picture = house.get("rules.pdf", "/pages/3.png", width=600)
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    assert picture.headers["cache-control"].startswith("private")
    assert picture.headers["x-content-type-options"] == "nosniff"


def test_a_changed_or_vanished_file_is_not_drawn(house: House) -> None:
    file = house.folder / "rules.pdf"
    file.write_bytes(pdf_of(lines_of("Other words altogether.")))
    for rest in ("/pages/1", "/pages/1.png"):
        answer = house.get("rules.pdf", rest)
        assert answer.status_code == 422 and answer.json()["reason"] == "changed"
    file.unlink()
    assert house.get("rules.pdf", "/pages/1").json()["reason"] == "vanished"
    assert "79 letters" in house.get("rules.pdf").json()["text"], "the text stays"


@pytest.mark.parametrize(
    "path",
    ["资料/999999", "资料/0", "nowhere/1", "资料/1/pages/0", "资料/1/pages/99", "资料/999999/pages/1.png", "a..b/1",
     "资料/-1", "资料/1e3", "资料/../1", "%2e%2e/1", "..%2f..%2fetc/1", "资料/1/pages/1.svg", "资料/1/pages/../x",
     "资料/1/original", "资料", "资料/1/", ".hidden/1", "a/b/1", "资料/1%00", "C:\\x/1", "资料/१/pages/1"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(house: House, path: str) -> None:
    answer = house.client.get(f"/documents/{path}")
    assert answer.status_code in (400, 404) and "text" not in answer.json()
    assert str(house.folder.parent) not in answer.text, "no path of the machine is told"


@pytest.mark.parametrize("spans", ["", "x", "5-3", "1-2,", "-1-4", "9999999999999-99999999999999", "1-2;3-4", "<b>"])
def test_spans_that_are_none_mark_nothing(house: House, spans: str) -> None:
    found = house.get("rules.pdf", "/pages/3", quotes=spans, passage=spans).json()
    assert found["quotes"] == found["passage"] == []


def test_another_site_cannot_read_a_document(house: House) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    assert house.client.get(f"/documents/x/{house.ids['guide.md']}", headers=headers).status_code == 403


def test_words_come_in_the_language_of_the_browser(house: House) -> None:
    chinese = house.client.get("/documents/words", headers={"accept-language": "zh-CN,en;q=0.5"}).json()
    assert chinese["open"] == CHINESE.open
    assert house.client.get("/documents/words").json()["open"] == ENGLISH.open


def test_both_languages_say_everything_with_the_same_blanks() -> None:
    english, chinese = as_json(ENGLISH), as_json(CHINESE)
    assert english.keys() == chinese.keys() and ENGLISH.no_original.keys() == CHINESE.no_original.keys()
    for key, sentence in english.items():
        if isinstance(sentence, str):
            assert set(re.findall(r"{\w+}", sentence)) == set(re.findall(r"{\w+}", chinese[key])), key
            assert key == "language" or sentence != chinese[key]

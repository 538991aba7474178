"""Real collections of a workspace behind the page's parts; the embedder is the hashing fake, there is no engine."""

import threading
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from app import build
from app.chat.wiring import EXAMPLES, Shelf, parts_of
from app.settings import Settings, load_settings
from retrieval.answering import Finished, Searched
from retrieval.errors import FathomError, MissingError
from retrieval.filters import parse_filter
from retrieval.passages import Document


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    fake = HashingEmbedder()
    monkeypatch.setattr(build, "embedder", lambda settings: lambda: fake)
    return load_settings(tmp_path, environment={}, flags={"answer": {"quote_by": "words"}})


def fill(settings: Settings, name: str, documents: list[Document]) -> None:
    with build.open_or_create(settings, name, wait=0, doing="testing") as collection:
        collection.add(documents)


RIVERS = [
    Document("danube.txt", "The Danube rises in the Black Forest. It flows into the Black Sea.", "The Danube"),
    Document("rhine.txt", "The Rhine rises in Switzerland. It flows into the North Sea.", "The Rhine"),
]


def test_a_question_is_answered_with_quotes_of_a_real_collection(workspace: Settings) -> None:
    fill(workspace, "rivers", RIVERS)
    shelf = Shelf(workspace)
    parts = parts_of(workspace, shelf)
    assert parts.collections() == ["rivers"] and parts.default_k >= 1
    events = list(
        parts.answer(
            "Where does the Rhine rise?",
            collection="rivers",
            quote=True,
            k=3,
            filters=[],
            engine="",
            history=[],
            stop=threading.Event(),
        )
    )
    assert isinstance(events[0], Searched) and isinstance(events[-1], Finished)
    answer = events[-1].answer
    assert "The Rhine rises in Switzerland." in answer.text
    assert all(citation.quote in RIVERS[1].text + RIVERS[0].text for citation in answer.citations)
    shelf.close()


def test_titles_are_spread_over_the_collection(workspace: Settings) -> None:
    fill(workspace, "many", [Document(f"{n:02}.txt", f"Text number {n}.", f"Title {n}") for n in range(20)])
    shelf = Shelf(workspace)
    titles = shelf.titles("many")
    assert len(titles) == EXAMPLES and titles[0] == "Title 0" and titles[-1] == "Title 15"
    shelf.close()


def test_documents_added_while_the_page_is_open_are_found(workspace: Settings) -> None:
    fill(workspace, "rivers", RIVERS[:1])
    shelf = Shelf(workspace)
    assert len(shelf.collection("rivers").search("Rhine Switzerland").hits) == 1
    fill(workspace, "rivers", RIVERS[1:])
    assert shelf.collection("rivers").search("Rhine Switzerland").hits[0].source.uri == "rhine.txt"
    fill(workspace, "second", RIVERS)
    assert shelf.names() == ["rivers", "second"]
    shelf.close()


def test_a_collection_that_is_gone_is_said_in_words(workspace: Settings) -> None:
    with pytest.raises(MissingError, match="no collection 'nowhere'"):
        Shelf(workspace).collection("nowhere")
    with pytest.raises(FathomError):
        Shelf(workspace).collection("../../etc")


def test_a_question_is_asked_of_the_documents_that_pass_its_filters(workspace: Settings) -> None:
    fill(workspace, "rivers", RIVERS)
    shelf = Shelf(workspace)
    ask = parts_of(workspace, shelf).answer
    found = next(
        iter(
            ask(
                "Where does the river rise?", collection="rivers", quote=True, k=3,
                filters=[parse_filter("document~dan*")], engine="", history=[], stop=threading.Event(),
            )
        )
    )  # fmt: skip
    assert isinstance(found, Searched) and {hit.source.uri for hit in found.hits} == {"danube.txt"}
    shelf.close()


def test_the_keys_of_filters_are_those_that_the_documents_have(workspace: Settings) -> None:
    hostile = {"year": 2020, "a=b": 1, "x" * 200: 1, "<b>": 1, "with space": 2}
    fill(
        workspace,
        "many",
        [Document(f"{n}.txt", f"Text {n}.", metadata=hostile if n else {"site": "north", "year": 1}) for n in range(3)],
    )
    shelf = Shelf(workspace)
    assert shelf.keys("many") == ["document", "title", "format", "year", "site"] and shelf.size("many") == 3
    assert parts_of(workspace, shelf).chats == workspace.workspace / "chats.sqlite"
    shelf.close()

"""Filters: parsing, meaning, and that no text of a filter becomes SQL."""

import pytest

from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.filters import Filter, parse_filter
from retrieval.passages import Document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("format=pdf", Filter("format", "=", "pdf")),
        ("year>=2020", Filter("year", ">=", 2020)),
        ("score<0.5", Filter("score", "<", 0.5)),
        ("draft=true", Filter("draft", "=", True)),
        ("path~legal/*", Filter("path", "~", "legal/*")),
        ("a!=b=c", Filter("a", "!=", "b=c")),
        ('year="2020"', Filter("year", "=", "2020")),
        ("标签=茶", Filter("标签", "=", "茶")),
    ],
)
def test_parse(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", "format", "=pdf", "  "])
def test_parse_refuses_with_the_form_expected(text: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        parse_filter(text)


@pytest.fixture
def shelf(collection: Collection) -> Collection:
    collection.add(
        [
            Document("a.pdf", "alpha text one", title="A", format="pdf", metadata={"year": 2019, "tag": "x"}),
            Document("b.txt", "alpha text two", title="B", metadata={"year": 2021, "tag": "y", "ok": True}),
            Document("legal/c.txt", "alpha text three", title="C", metadata={"year": "2021", "tag": "it's"}),
        ]
    )
    return collection


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["format=pdf"], {"a.pdf"}),
        (["format!=pdf"], {"b.txt", "legal/c.txt"}),
        (["year=2021"], {"b.txt", "legal/c.txt"}),
        (["year>=2020"], {"b.txt"}),
        (["tag!=x"], {"b.txt", "legal/c.txt"}),
        (["ok=true"], {"b.txt"}),
        (["path~legal/*"], {"legal/c.txt"}),
        (["tag=it's"], {"legal/c.txt"}),
        (["year=2021", "tag=y"], {"b.txt"}),
        (["nothing=1"], set()),
        (["x' OR '1'='1=1"], set()),
        (["title=A' OR 1=1 --"], set()),
        (['{"$ne": 1}=1'], set()),
    ],
)
@pytest.mark.parametrize("mode", ["lexical", "dense", "hybrid"])
def test_filters_act_inside_every_search(shelf: Collection, filters: list[str], expected: set[str], mode: str) -> None:
    hits = shelf.search("alpha", mode=mode, k=10, filters=[parse_filter(f) for f in filters]).hits  # type: ignore[arg-type]
    assert {hit.source.uri for hit in hits} == expected


def test_owners_are_never_mixed(shelf: Collection) -> None:
    shelf.add([Document("secret.txt", "alpha secret", title="S")], owner="bob")
    everyone = {hit.source.uri for hit in shelf.search("alpha secret", owners=None).hits}
    alice = {hit.source.uri for hit in shelf.search("alpha secret", owners=frozenset({"local"})).hits}
    assert "secret.txt" in everyone and "secret.txt" not in alice and len(alice) == 3
    assert shelf.search("alpha", owners=frozenset()).hits == ()

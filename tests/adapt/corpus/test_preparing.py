"""Preparing a corpus: nothing lost without a word, a split that stays, a folder that is whole or not there."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.corpus import making, preparing
from adapt.corpus.preparing import Corpus, describe, prepare
from adapt.corpus.splitting import blocks, choose, place, rejoined
from adapt.recipe import Decontamination, Source
from eval.data.texts import read_texts
from retrieval.errors import DamagedError, FathomError, ReadingError, UsageError

WORDS = (
    "valve pump report engineer pressure opens closes before after during inspection plant line filter steam".split()
)
HAN = "阀门泵报告工程师压力打开关闭之前之后检查工厂管线过滤蒸汽温度记录"


def prose(seed: int, words: int = 120) -> str:
    """Sentences of drawn words, a paragraph every thirty; two seeds share next to no five words in a row."""
    drawn = random.Random(seed)
    parts = [f"{drawn.choice(WORDS)}{drawn.randrange(1000)}" for _ in range(words)]
    return ".\n\n".join(" ".join(parts[at : at + 30]) for at in range(0, words, 30)) + "."


def chinese(seed: int) -> str:
    drawn = random.Random(seed)
    return "".join(drawn.choice(HAN) for _ in range(200)) + "。"


def rows(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": t}) + "\n" for n, t in enumerate(texts)), "utf-8")
    return path


def made(folder: Path, texts: Sequence[str] | None = None, *, seed: int = 0, **given_: Any) -> Corpus:
    if texts is not None:
        rows(folder / "a.jsonl", texts)
    against = given_.pop("against", ())
    return prepare(
        "domain",
        Source(**{"path": "a.jsonl", **given_}),
        root=folder,
        decontaminate=Decontamination(against=against),
        seed=seed,
        cache=folder / "cache",
        progress=lambda stage, done, total: None,
    )


def ids(corpus: Corpus, *parts: Any) -> list[str]:
    return [text.id for part in parts or ("train", "held_out") for text in corpus.texts(part)]


# --- what is kept and what is dropped --------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    kinds=st.lists(
        st.sampled_from(["prose", "chinese", "copy", "near", "short", "numbers", "code", "empty", "asked"]),
        min_size=1,
        max_size=50,
    ),
    limit=st.none() | st.integers(1, 10),
)
def test_every_document_is_kept_or_dropped_for_a_reason(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("made")
    question = "which of all the valves must be opened before the pump of the second line is started"
    (folder / "q.jsonl").write_text(json.dumps({"question": question}))
    makers: dict[str, Callable[[int], str]] = {
        "prose": prose,
        "chinese": chinese,
        "copy": lambda number: prose(9_001),
        "near": lambda number: f"{prose(9_002)} and number{number}",
        "short": lambda number: "short",
        "numbers": lambda number: " ".join(str(number * at * 37) for at in range(1, 60)),
        "code": lambda number: "\n".join(f"def f{at}_{number}(a{number}):\n    return a * {at}" for at in range(40)),
        "empty": lambda number: " \n",
        "asked": lambda number: f"{prose(number)} {question} {prose(number + 500)}",
    }
    texts = ["Always here: " + prose(9_003)] + [makers[kind](number) for number, kind in enumerate(kinds)]
    corpus = made(folder, texts, limit=limit, against=["q.jsonl"])
    report = corpus.report
    count = Counter(kinds)
    assert report["left_out"]["documents"] == count["empty"]
    assert report["read"]["documents"] == len(texts) - count["empty"]
    assert report["kept"]["texts"] + report["dropped"]["texts"] == report["read"]["texts"]
    lost = sum(entry["bytes"] for entry in report["dropped"]["reasons"].values())
    assert report["kept"]["bytes"] + lost == report["read"]["bytes"]
    found = [text for part in ("train", "held_out") for text in corpus.texts(part)]  # type: ignore[arg-type]
    if report["split"]["by"] == "documents":
        assert len(found) == report["kept"]["texts"] == len({text.id for text in found})
    whole = 1 + sum(count[kind] for kind in ("prose", "chinese", "code")) + (count["copy"] > 0) + (count["near"] > 0)
    assert report["kept"]["texts"] == (whole if limit is None else min(whole, limit))
    assert not any(question in text.text for text in found)
    assert all(isinstance(line, str) and line for line in describe(report))
    for part in ("train", "held_out"):
        assert corpus.count(part) == len(list(corpus.texts(part)))  # type: ignore[arg-type]
        assert corpus.bytes(part) == sum(len(text.text.encode()) for text in corpus.texts(part))  # type: ignore[arg-type]


def test_reasons_have_examples_and_are_said_in_sentences(tmp_path: Path) -> None:
    texts = [prose(n) for n in range(30)] + [prose(3), prose(4) + " more", "no", *(["1 2 3 4 5 " * 40] * 9)]
    report = made(tmp_path, texts).report
    reasons = report["dropped"]["reasons"]
    assert {reason: entry["documents"] for reason, entry in reasons.items()} == {
        "numbers": 9, "duplicate": 1, "near-duplicate": 1, "too-short": 1
    }  # fmt: skip
    assert len(reasons["numbers"]["examples"]) == 5
    assert reasons["duplicate"]["examples"][0] | {"text": ""} == {"id": "d30", "detail": "of 'd3'", "text": ""}
    said = "\n".join(describe(report))
    assert (
        "42 documents" in said and "Dropped 9" in said and "it is mostly digits" in said and "'d30' (of 'd3')" in said
    )


def test_filters_can_be_switched_off(tmp_path: Path) -> None:
    texts = [*(prose(n) for n in range(25)), prose(3) + " more", "1 2 3 4 5 " * 40]
    assert made(tmp_path, texts, quality=False, near_duplicates=None).report["dropped"]["texts"] == 0


def test_languages_keep_what_is_theirs_code_and_what_does_not_show_one(tmp_path: Path) -> None:
    german = "Die Sicherheitsventile werden alle neunzig Tage geprüft, und der Bericht geht an den Ingenieur. "
    code = "import os\n\ndef size(path):\n    found = os.stat(path)\n    return found.st_size\n"
    texts = ["The safety valves are inspected every ninety days by the engineer. ", chinese(1), german, code]
    corpus = made(tmp_path, texts, languages=("en",))
    assert {entry["documents"] for entry in corpus.report["dropped"]["reasons"].values()} == {2}
    assert {name.partition("#")[0] for name in ids(corpus)} == {"d0", "d3"}
    assert corpus.report["languages"]["documents"] == {"en": 1, "code": 1}
    with pytest.raises(UsageError, match="no ISO 639-1 code"):
        made(tmp_path, languages=("english",))


def test_overlaps_with_an_evaluation_are_listed_with_document_question_and_text(tmp_path: Path) -> None:
    asked = "Which of all the valves must be opened before the pump of the second line is started?"
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "q1", "question": asked}))
    texts = [*(prose(n) for n in range(25)), f"{prose(99)} {asked} {prose(98)}"]
    corpus = made(tmp_path, texts, against=["q.jsonl"])
    assert "d25" not in ids(corpus)
    assert corpus.report["overlaps"]["list"] == [
        {"document": "d25", "file": "q.jsonl", "item": "q1", "question": asked, "text": asked.lower().rstrip("?")}
    ]
    assert any("'d25' and q.jsonl, q1" in line for line in describe(corpus.report))


def test_titles_are_kept_apart_from_texts(tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "text": prose(n), "head": f"Title {n}"}) for n in range(25)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    texts = [text for text in made(tmp_path, title="head").texts() if text.id == "7"]
    assert [(text.title, text.text) for text in texts] == [("Title 7", prose(7))]


# --- the limit -------------------------------------------------------------------------------------------------------


def test_a_limit_is_drawn_with_the_seed_and_filled_in_spite_of_what_is_dropped(tmp_path: Path) -> None:
    texts = [text for n in range(60) for text in (prose(n), "no", prose(n) + " again")]
    drawn = [made(tmp_path, texts, limit=25, seed=seed) for seed in (0, 1)]
    for corpus in drawn:
        assert corpus.report["kept"]["texts"] == 25
        reasons = corpus.report["dropped"]["reasons"]
        assert sum(entry["documents"] for entry in reasons.values()) == 155 and reasons["limit"]["documents"] > 0
    assert sorted(ids(drawn[0])) != sorted(ids(drawn[1]))
    assert ids(made(tmp_path, limit=25, seed=0)) == ids(drawn[0])


def test_without_a_limit_the_seed_changes_nothing(tmp_path: Path) -> None:
    assert made(tmp_path, [prose(n) for n in range(30)], seed=0) == made(tmp_path, seed=1)


# --- the split -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 10_000), min_size=40, max_size=80), st.sets(st.integers(10_001, 20_000), max_size=40))
def test_documents_stay_on_their_side_when_others_are_added(old: set[int], new: set[int]) -> None:
    def held_out(numbers: list[int]) -> set[int]:
        return {numbers[at] for at in choose([place(str(number).encode()) for number in numbers], 0.3)}

    before, after = held_out(sorted(old)), held_out(sorted(old | new))
    assert after & old == before


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40), st.floats(0, 1))
def test_some_are_held_out_and_some_are_not(places: list[float], share: float) -> None:
    found = len(choose(places, share))
    if share == 0:
        assert found == 0
    elif share == 1:
        assert found == len(places)
    else:
        assert found == 0 if len(places) == 1 else 1 <= found < len(places)


def test_the_split_does_not_depend_on_order_or_names(tmp_path: Path) -> None:
    texts = [prose(n) for n in range(60)]
    first = {text.text for text in made(tmp_path, texts, held_out=0.2).texts("held_out")}
    second = {text.text for text in made(tmp_path, texts[::-1], held_out=0.2).texts("held_out")}
    assert first == second and 4 <= len(first) <= 22


def test_parts_of_a_long_document_stay_on_one_side(tmp_path: Path) -> None:
    texts = [prose(n) for n in range(40)] + [prose(100 + n, 30_000) for n in range(4)]
    corpus = made(tmp_path, texts, held_out=0.5)
    assert corpus.report["read"]["texts"] > corpus.report["read"]["documents"] == 44
    sides: dict[str, set[str]] = {}
    for part in ("train", "held_out"):
        for name in ids(corpus, part):
            sides.setdefault(name.partition("#")[0], set()).add(part)
    assert len(sides) == 44 and all(len(side) == 1 for side in sides.values())


def test_few_documents_are_held_out_by_parts_and_that_is_said(tmp_path: Path) -> None:
    texts = [prose(n, 9_000) for n in range(3)]
    corpus = made(tmp_path, texts, held_out=0.1)
    assert corpus.report["split"]["by"] == "parts" and corpus.count("held_out") >= 1
    assert any("3 documents are too few to be held out whole" in line for line in describe(corpus.report))
    by_document: dict[str, list[tuple[int, str]]] = {}
    for part in ("train", "held_out"):
        for text in corpus.texts(part):  # type: ignore[arg-type]
            name, _, number = text.id.partition("#")
            by_document.setdefault(name, []).append((int(number), text.text))
    assert ["".join(text for _, text in sorted(parts)) for _, parts in sorted(by_document.items())] == texts
    assert corpus.bytes("train") + corpus.bytes("held_out") == corpus.report["read"]["bytes"]


def test_a_single_short_document_is_trained_on(tmp_path: Path) -> None:
    corpus = made(tmp_path, [prose(1, 30)])
    assert (corpus.count("train"), corpus.count("held_out")) == (1, 0)
    assert any("too little text to hold any of it out" in line for line in describe(corpus.report))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_neighbours_on_one_side_are_put_together_again(sides: list[bool]) -> None:
    parts = [f"<{number}>" for number in range(len(sides))]
    found = rejoined(parts, sides)
    assert "".join(text for _, _, text in found) == "".join(parts)
    assert all(one[0] != other[0] for one, other in zip(found, found[1:], strict=False))
    assert "".join(blocks(prose(1, 5_000))) == prose(1, 5_000)


def test_near_duplicates_do_not_straddle_the_split(tmp_path: Path) -> None:
    texts = [text for n in range(60) for text in (prose(n), prose(n) + " once more")]
    corpus = made(tmp_path, texts, held_out=0.5)
    assert corpus.report["dropped"]["reasons"]["near-duplicate"]["documents"] == 60
    assert sorted(ids(corpus)) == sorted(f"d{2 * n}" for n in range(60))


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_second_call_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(tmp_path, [prose(n) for n in range(30)])

    def never(*arguments: object, **more: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(preparing, "make", never)
    assert made(tmp_path) == first == Corpus.open(first.folder)


@pytest.mark.parametrize("setting", [{"held_out": 0.2}, {"quality": False}, {"near_duplicates": 0.9}, {"limit": 7}])
def test_other_settings_or_bytes_are_another_corpus(tmp_path: Path, setting: dict[str, Any]) -> None:
    first = made(tmp_path, [prose(n) for n in range(30)])
    assert made(tmp_path, **setting).sha256 != first.sha256
    assert made(tmp_path, [prose(n) for n in range(31)]).sha256 != first.sha256


def test_it_is_read_by_what_measures_texts(tmp_path: Path) -> None:
    corpus = made(tmp_path, [prose(n) for n in range(60)], held_out=0.5)
    found = read_texts(corpus.file("held_out"))
    assert [(text.id, text.text) for text in found.documents] == [
        (text.id, text.text) for text in corpus.texts("held_out")
    ]


@pytest.mark.parametrize("file", ["train.jsonl", "held_out.jsonl", "report.json"])
def test_a_changed_file_is_noticed_and_the_corpus_made_again(tmp_path: Path, file: str) -> None:
    first = made(tmp_path, [prose(n) for n in range(30)])
    whole = (first.folder / file).read_bytes()
    (first.folder / file).write_bytes(whole[:-3] + b"x}\n")
    with pytest.raises(DamagedError, match="is not what was written"):
        Corpus.open(first.folder)
    assert made(tmp_path) == first and (first.folder / file).read_bytes() == whole


def test_what_breaks_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "_write", full)
    with pytest.raises(FathomError, match="No space left on device"):
        made(tmp_path, [prose(n) for n in range(30)])
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["hashes"]


def test_an_empty_corpus_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"other": "x"}\n' * 3)
    with pytest.raises(
        ReadingError, match="holds no text to train on; 3 were left out.*has no column 'text'; it has other"
    ):
        made(tmp_path)
    with pytest.raises(ReadingError, match=r"all were dropped \(4 too-short\)"):
        made(tmp_path, ["no", "yes", "so", "a"])
    with pytest.raises(UsageError, match="no file or folder"):
        made(tmp_path, path="nowhere")
    with pytest.raises(UsageError, match="questions"):
        made(tmp_path, [prose(1)], against=["nowhere.jsonl"])


# --- real corpora ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "given_", "read", "kept"),
    [
        ("corpus_peps/peps.jsonl.gz", {"title": "title", "limit": 150}, 736, 150),
        ("medquad_qa/qa.jsonl.gz", {"field": "question+answers", "limit": 500}, 16_407, 500),
        ("wikitext2/valid.txt", {"title": "title"}, 60, 61),
    ],
)
def test_real_corpora_lose_nothing_but_repetitions(
    shared_data: Callable[[str], Path], tmp_path: Path, path: str, given_: dict[str, Any], read: int, kept: int
) -> None:
    source = Source(path=str(shared_data(path)), **given_)
    corpus = prepare(
        "real",
        source,
        root=tmp_path,
        decontaminate=Decontamination(),
        seed=0,
        cache=tmp_path / "cache",
        progress=lambda stage, done, total: None,
    )
    assert (corpus.report["read"]["documents"], corpus.report["kept"]["texts"]) == (read, kept)
    assert set(corpus.report["dropped"]["reasons"]) <= {"duplicate", "near-duplicate", "limit"}
    assert corpus.report["split"]["by"] == "documents" and corpus.count("held_out") > 0

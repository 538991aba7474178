"""Claims from every kind of source: labels that hold by hand, documents held out whole, nothing of another split."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapt.claims.making import ClaimMaking, make_claims
from adapt.claims.pair_file import write_pairs
from app.cli import app
from eval.data.claim_pairs import ClaimPair, read_pairs
from retrieval.errors import UsageError


def jsonl(file: Path, rows: Sequence[object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


TOWNS = [
    ("Lorne", 1876, "Anna Reed"),
    ("Vale", 1881, "Peter Holm"),
    ("Ness", 1903, "Clara Wood"),
    ("Holt", 1919, "Ian"),
]


def question_set(folder: Path) -> Path:
    folder.mkdir()
    texts = [f"The harbour of Port {town} opened in {year}. Its wall was built by {who}." for town, year, who in TOWNS]
    jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)])
    rows = []
    for n, (town, year, who) in enumerate(TOWNS):
        for kind, asked, answer in (
            ("year", f"When did the harbour of Port {town} open?", str(year)),
            ("who", f"Who built the wall of Port {town}?", who),
        ):
            start = texts[n].index(answer)
            row = {"id": f"{kind}{n}", "question": asked, "answers": [answer], "answer_starts": [start]}
            rows.append({**row, "context_id": f"d{n}"})
    jsonl(folder / "qa.jsonl", rows)
    return folder


def test_a_question_gives_a_true_a_false_and_a_silent_pair(tmp_path: Path) -> None:
    made = make_claims([str(question_set(tmp_path / "towns"))], ClaimMaking())
    of = {(pair.source, pair.label): pair for pair in made.learned}
    for n, (town, year, _) in enumerate(TOWNS):
        true, false = of[f"towns#year{n}", "supported"], of[f"towns#year{n}", "contradicted"]
        silent = of[f"towns#year{n}", "neutral"]
        assert str(year) in true.claim and str(year) in true.passage and true.document == f"d{n}"
        assert false.passage == true.passage and str(year) not in false.claim and town in false.claim
        assert silent.claim == true.claim and str(year) not in silent.passage
    assert made.counts()["learned"]["supported"] == 8 and not made.held_out


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    made = make_claims([str(question_set(tmp_path / "towns"))], ClaimMaking(hold_out=0.25))
    assert {pair.document for pair in made.held_out} == {"d3"}
    assert {pair.document for pair in made.learned} == {"d0", "d1", "d2"}


def test_documents_give_their_own_sentences(tmp_path: Path) -> None:
    text = (
        "The old harbour of Port Lorne was opened by Anna Reed in 1876. Ships from Port Vale came to it every day. "
        "They paid for it. The long harbour wall is 300 metres long and was built by Peter Holm later on. "
    )
    (tmp_path / "doc.txt").write_text(text + "Another harbour is not known in this region of the old coast. ", "utf-8")
    (tmp_path / "other.txt").write_text(
        "Bread is made of flour, water, salt and some yeast in every bakery here.", "utf-8"
    )
    made = make_claims([str(tmp_path)], ClaimMaking(seed=1))
    true = next(pair for pair in made.learned if pair.label == "supported" and pair.document == "doc.txt")
    false = next(pair for pair in made.learned if pair.label == "contradicted" and pair.document == "doc.txt")
    silent = next(pair for pair in made.learned if pair.label == "neutral" and pair.claim == true.claim)
    assert (
        true.claim in text + "Another harbour is not known in this region of the old coast."
        and true.claim in true.passage
    )
    assert false.claim != true.claim and false.claim not in true.passage
    assert true.claim not in silent.passage and "Bread" in silent.passage and silent.document == "other.txt"


def test_claims_that_people_judged_leave_out_what_measures(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("scifact")
    made = make_claims([str(folder)], ClaimMaking())
    measured = read_pairs(folder, "validation")
    assert not {pair.claim for pair in made.learned} & {pair.claim for pair in measured}
    assert not {pair.document for pair in made.learned} & {pair.document for pair in measured}
    assert len(made.learned) > 800 and all(made.counts()["learned"].values())


def test_the_file_is_whole_and_read_back(tmp_path: Path) -> None:
    pairs = [ClaimPair("港口很大。", "港口 \ud800 很大。", "supported"), ClaimPair("a", "b", "neutral", "d")]
    for name in ("pairs.jsonl", "pairs.jsonl.gz"):
        write_pairs(tmp_path / name, pairs)
        assert [pair.label for pair in read_pairs(tmp_path / name)] == ["supported", "neutral"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pairs.jsonl", "pairs.jsonl.gz"]


def test_the_command_writes_both_files_and_counts(tmp_path: Path) -> None:
    out, held = tmp_path / "pairs.jsonl", tmp_path / "held.jsonl"
    words = ["data", "claims", str(question_set(tmp_path / "towns")), "--out", str(out), "--workspace", str(tmp_path)]
    ran = CliRunner().invoke(app, [*words, "--hold-out", "0.25", "--held-out-to", str(held), "--json"])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["labels"]["supported"] == 6 and said["held_out"]["supported"] == 2
    assert len(read_pairs(out)) == sum(said["labels"].values()) and len(read_pairs(held)) == sum(
        said["held_out"].values()
    )
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "is there already" in again.output
    assert CliRunner().invoke(app, [*words, "--replace", "--dry-run"]).exit_code == 0


def test_sources_that_give_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "doc.txt").write_text("Short.", "utf-8")
    with pytest.raises(UsageError, match="no claim came of"):
        make_claims([str(tmp_path / "doc.txt")], ClaimMaking())
    for wrong in ({"hold_out": 1.0}, {"limit": 0}):
        with pytest.raises(UsageError):
            ClaimMaking(**wrong)  # type: ignore[arg-type]

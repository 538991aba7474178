"""Text that is near a task is chosen from a corpus: the near one, of every topic, once, and no more than was asked."""

from pathlib import Path

import numpy as np
import pytest
from fakes import HashingEmbedder

from adapt.corpus.selection import ALIKE, LEAST, PASSAGE, Selected, cut, select
from adapt.corpus.texts import TrainingText
from adapt.recipe import Selection
from retrieval.errors import DamagedError, UsageError

PUMPS = (
    "The dosing pump of the plant needs its membrane replaced after {} hours; the inlet valve is closed before that. "
)
LAW = "The tenant of the flat may give notice {} weeks before the end of the quarter, in writing, to the landlord. "
FOOD = "Stir {} grams of flour into the melted butter and let the sauce boil until it is thick and smooth enough. "


def corpus() -> list[TrainingText]:
    return [
        TrainingText(f"{name}-{n}", "\n\n".join(kind.format(n * 10 + part) * 6 for part in range(2)), name)
        for n in range(30)
        for name, kind in (("pumps", PUMPS), ("law", LAW), ("food", FOOD))
    ]


def gold(*sentences: str) -> list[TrainingText]:
    return [TrainingText(str(n), sentence) for n, sentence in enumerate(sentences)]


def quiet(stage: str, done: int, total: int) -> None:
    del stage, done, total


def chosen(folder: Path, sentences: list[TrainingText], settings: Selection, **options: object) -> Selected:
    return select(
        corpus(),
        sentences,
        settings,
        embedder=HashingEmbedder(256, max_tokens=512),  # type: ignore[arg-type]
        seed=0,
        folder=folder / "selected",
        progress=quiet,
        **options,  # type: ignore[arg-type]
    )


def test_what_is_near_the_task_is_chosen_and_what_is_not_is_left(tmp_path: Path) -> None:
    found = chosen(
        tmp_path, gold("when is the membrane of the dosing pump replaced"), Selection(near="task", neighbours=8)
    )
    assert {text.title for text in found.texts()} == {"pumps"}
    assert found.report["near"] == 8 and found.report["passages"] == 180 and found.report["sentences"] == 1
    assert found.report["cosine"]["lowest"] <= found.report["cosine"]["median"] <= found.report["cosine"]["highest"]


def test_no_topic_takes_the_room_of_another(tmp_path: Path) -> None:
    """Twenty sentences on pumps and one each on law and food: without clusters the pumps come first and fill it."""
    asked = gold(*(f"dosing pump membrane hours inlet valve {n}" for n in range(20)), "notice tenant", "flour butter")
    settings = Selection(near="task", neighbours=60, tokens=1800)

    def shares(folder: str, clusters: int) -> set[str]:
        found = chosen(tmp_path / folder, asked, settings.model_copy(update={"clusters": clusters}))
        assert 0 < found.report["tokens"] <= 1800
        return {text.title for text in found.texts()}

    assert shares("with", 3) == {"pumps", "law", "food"}
    assert len(shares("without", 0)) < 3


def test_the_same_said_twice_is_taken_once(tmp_path: Path) -> None:
    same = [TrainingText(str(n), PUMPS.format(7) * 5, "") for n in range(10)] + [
        TrainingText("x", LAW.format(1) * 5, "")
    ]
    found = select(
        same,
        gold("dosing pump membrane"),
        Selection(near="task", neighbours=11),
        embedder=HashingEmbedder(256, max_tokens=512),  # type: ignore[arg-type]
        seed=0,
        folder=tmp_path / "s",
        progress=quiet,
    )
    assert len(list(found.texts())) == 2 and ALIKE < 1


def test_passages_are_paragraphs_and_lose_nothing_but_scraps() -> None:
    text = "A short line.\n\n" + "\n\n".join(PUMPS.format(n) * 4 for n in range(5)) + "\n\n" + "x" * (3 * PASSAGE)
    parts = cut(text)
    assert all(LEAST <= len(part) <= PASSAGE for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    chinese = cut("开机前必须检查转子是否平衡，盖子是否锁紧。" * 200)
    assert all(part.endswith("。") for part in chinese) and max(map(len, chinese)) <= PASSAGE
    assert cut("too short") == []


def test_a_second_call_reads_what_the_first_wrote_and_vectors_survive_a_kill(tmp_path: Path) -> None:
    sentences, settings = gold("dosing pump"), Selection(near="task", neighbours=5)
    embedder = HashingEmbedder(256, max_tokens=512)
    first = select(corpus(), sentences, settings, embedder=embedder, seed=0, folder=tmp_path / "s", progress=quiet)  # type: ignore[arg-type]
    made = embedder.embedded
    again = select(corpus(), sentences, settings, embedder=embedder, seed=0, folder=tmp_path / "s", progress=quiet)  # type: ignore[arg-type]
    assert again.sha256 == first.sha256 and embedder.embedded == made
    for file in (tmp_path / "s").iterdir():
        file.unlink()
    (tmp_path / "s").rmdir()
    other = select(corpus(), sentences, settings, embedder=embedder, seed=0, folder=tmp_path / "s", progress=quiet)  # type: ignore[arg-type]
    assert other.sha256 == first.sha256 and embedder.embedded - made <= len(sentences)
    (tmp_path / "s" / "texts.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DamagedError):
        Selected.open(tmp_path / "s")


def test_nothing_to_choose_from_or_to_be_near_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'task' has no sentence"):
        chosen(tmp_path, gold("  "), Selection(near="task"))
    with pytest.raises(UsageError, match="'domain' has no passage of 120 characters"):
        select(
            [TrainingText("a", "short")],
            gold("b"),
            Selection(near="task"),
            embedder=HashingEmbedder(),  # type: ignore[arg-type]
            seed=0,
            folder=tmp_path / "t",
            progress=quiet,
        )
    assert np.isfinite(ALIKE)

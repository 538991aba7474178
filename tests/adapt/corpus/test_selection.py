"""Selection: the passages nearest to a task, from every topic, each once; vectors are never made twice."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import HashingEmbedder

from adapt.corpus import passage_vectors as vectors_file
from adapt.corpus.selection import Selected as SelectedTexts
from adapt.corpus.selection import _in_turn, select
from adapt.corpus.texts import TrainingText
from adapt.recipe import Selection
from eval.data.texts import read_texts
from retrieval.errors import DamagedError, UsageError

TOPICS = {
    "tides": "The moon raises the tides of the sea and spring tides come with the full moon, says chapter {n}.",
    "bread": "Bread wants flour, water, salt and yeast, and dough must be kneaded for minutes, says chapter {n}.",
    "茶": "绿茶不经过发酵，水温应该在八十度左右，第{n}章这样写道。",
}


def quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def corpus(each: int = 30) -> list[TrainingText]:
    """Documents of one passage, `each` of every topic; number words make them differ."""
    return [
        TrainingText(f"{topic}-{n}", f"{text.format(n=n)} {' '.join(f'{topic}{n}x{m}' for m in range(12))}", topic)
        for topic, text in TOPICS.items()
        for n in range(each)
    ]


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[..., SelectedTexts]:
    count = iter(range(100))

    def run(
        texts: list[TrainingText], gold: list[str], embedder: HashingEmbedder | None = None, **settings: Any
    ) -> SelectedTexts:
        return select(
            texts,
            [TrainingText(str(n), text) for n, text in enumerate(gold)],
            Selection(**{"near": "gold", "clusters": 0, **settings}),
            embedder=embedder or HashingEmbedder(dimension=256),
            seed=0,
            folder=tmp_path / f"selected-{next(count)}",
            progress=quiet,
            cache=tmp_path / "vectors",
        )

    return run


def topics(selected: SelectedTexts) -> dict[str, int]:
    found = [text.id.rpartition("-")[0].rpartition("-")[0] for text in selected.texts()]
    return {topic: found.count(topic) for topic in TOPICS if topic in found}


@pytest.mark.parametrize("topic", TOPICS)
def test_the_nearest_passages_are_those_of_the_tasks_topic(chosen: Callable[..., SelectedTexts], topic: str) -> None:
    selected = chosen(corpus(), [TOPICS[topic].format(n="")], neighbours=20)
    assert topics(selected) == {topic: 20}
    assert selected.report["passages_selected"] == 20 == selected.report["found"]


def test_every_gold_text_brings_its_own_neighbours(chosen: Callable[..., SelectedTexts]) -> None:
    gold = [TOPICS["tides"].format(n=""), TOPICS["茶"].format(n="")]
    assert topics(chosen(corpus(), gold, neighbours=7)) == {"tides": 7, "茶": 7}


def test_the_neighbours_are_those_that_a_search_through_all_would_give(chosen: Callable[..., SelectedTexts]) -> None:
    embedder = HashingEmbedder(dimension=256)
    gold = "Flour and water under the full moon, says chapter 3."
    similarities = embedder.embed_passages([text.text for text in corpus()]) @ embedder.embed_passages([gold])[0]
    nearest = {corpus()[place].id for place in np.argsort(-similarities)[:12]}
    selected = chosen(corpus(), [gold], neighbours=12)
    assert {text.id.partition("#")[0] for text in selected.texts()} == nearest
    assert selected.report["similarity"]["selected"]["most"] == pytest.approx(similarities.max(), abs=1e-4)


def test_clusters_share_the_tokens_so_that_no_topic_takes_all(chosen: Callable[..., SelectedTexts]) -> None:
    texts = corpus(60)[:60] + corpus(60)[60:70] + corpus(60)[120:180]  # sixty of two topics, ten of one
    gold = [TOPICS[topic].format(n="") for topic in TOPICS]
    every = {"neighbours": 60, "tokens": 1200}
    alone = topics(chosen(texts, gold, clusters=0, **every))
    shared = topics(chosen(texts, gold, clusters=3, **every))
    assert set(alone) == {"tides"}, "its texts are the nearest by a little, so without quotas it takes all"
    assert set(shared) == set(TOPICS) and max(shared.values()) <= 1.5 * min(shared.values())


def test_turns_are_fair_and_stay_within_the_limit() -> None:
    clusters = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    tokens = np.full(9, 10)
    assert _in_turn(clusters, tokens, 60).tolist() == [0, 1, 2, 6, 7, 8]
    assert _in_turn(clusters, tokens, 25).tolist() in ([0, 6], [0, 8], [6, 8])
    assert _in_turn(clusters, tokens, None).tolist() == list(range(9)) == _in_turn(clusters, tokens, 90).tolist()
    assert len(_in_turn(clusters, tokens, 5)) == 1, "a limit below the shortest passage still gives one"


def test_tokens_are_counted_by_the_tokenizer_of_the_model_to_be_trained(tmp_path: Path) -> None:
    selected = select(
        corpus(), [TrainingText("1", TOPICS["tides"])], Selection(near="gold", neighbours=20, tokens=1000, clusters=0),
        embedder=HashingEmbedder(dimension=256), seed=0, folder=tmp_path / "selected", progress=quiet,
        cache=tmp_path / "vectors", count=lambda texts: [100 for _ in texts],
    )  # fmt: skip
    assert selected.report["passages_selected"] == 10 and selected.report["tokens"] == 1000


def test_near_duplicates_are_taken_once(chosen: Callable[..., SelectedTexts]) -> None:
    texts = corpus()
    copies = [TrainingText(f"copy-{text.id}", text.text + " Copied.", text.title) for text in texts[:5]]
    exact = [TrainingText(f"exact-{text.id}", text.text, text.title) for text in texts[:5]]
    selected = chosen([*texts, *copies, *exact], [TOPICS["tides"]], neighbours=35)
    assert selected.report["near_duplicates"] == 5
    assert selected.report["passages_selected"] == 30
    assert not any(text.id.startswith("exact") for text in selected.texts())


def test_passages_that_touch_become_one_text_again(chosen: Callable[..., SelectedTexts]) -> None:
    story = "\n\n".join(TOPICS["tides"].format(n=n) + f" Unheard-of word {n} number {n * n}." for n in range(40))
    selected = chosen([TrainingText("story", story, "Tides")], [TOPICS["tides"]], neighbours=200)
    assert selected.report["passages_selected"] > 3
    (text,) = selected.texts()
    assert text == TrainingText(f"story#0-{len(story)}", story, "Tides")


def test_texts_are_read_by_evaluation_too(chosen: Callable[..., SelectedTexts]) -> None:
    selected = chosen(corpus(), [TOPICS["茶"]], neighbours=5)
    assert [text.text for text in read_texts(selected.file).documents] == [text.text for text in selected.texts()]


def test_the_report_says_what_came_from_where(chosen: Callable[..., SelectedTexts]) -> None:
    gold = [TOPICS[topic] for topic in TOPICS]
    report = chosen(corpus(), gold, neighbours=30, clusters=3, tokens=600).report
    assert report["documents"] == report["passages"] == 90 and report["gold_passages"] == 3
    assert sum(cluster["selected"] for cluster in report["clusters"]) == report["passages_selected"]
    assert sum(cluster["selected_tokens"] for cluster in report["clusters"]) == report["tokens"] <= 600
    assert len(report["examples"]["nearest"]) == 5
    assert report["similarity"]["selected"]["median"] > report["similarity"]["corpus"]["least"]


def test_vectors_are_made_once_and_survive_an_interruption(
    chosen: Callable[..., SelectedTexts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_file, "TOGETHER", 10)

    class Interrupted(HashingEmbedder):
        """Dies at the fortieth text."""

        def embed_passages(self, texts: Any, **options: Any) -> np.ndarray:
            if self.embedded >= 40:
                raise KeyboardInterrupt
            return super().embed_passages(texts, **options)

    dying, resumed, again = (
        Interrupted(dimension=256), HashingEmbedder(dimension=256), HashingEmbedder(dimension=256)
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        chosen(corpus(), [TOPICS["tides"]], dying)
    first = chosen(corpus(), [TOPICS["tides"]], resumed, neighbours=9)
    assert (dying.embedded, resumed.embedded) == (40, 51)
    assert chosen(corpus(), [TOPICS["tides"]], again, neighbours=9).sha256 == first.sha256
    assert again.embedded == 0
    other = HashingEmbedder(dimension=256, salt="another model")
    chosen(corpus(), [TOPICS["tides"]], other)
    assert other.embedded == 91


def test_damaged_vectors_are_made_again(chosen: Callable[..., SelectedTexts], tmp_path: Path) -> None:
    first = chosen(corpus(), [TOPICS["tides"]])
    for file in (tmp_path / "vectors").rglob("*"):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[-3] ^= 4
            file.write_bytes(data)
    again = HashingEmbedder(dimension=256)
    assert chosen(corpus(), [TOPICS["tides"]], again).sha256 == first.sha256
    assert again.embedded == 91


def test_nothing_to_select_from_or_near_to_is_refused(chosen: Callable[..., SelectedTexts]) -> None:
    with pytest.raises(UsageError, match="the corpus to select from has no text"):
        chosen([TrainingText("1", " \n")], ["tides"])
    with pytest.raises(UsageError, match="the task that texts are to be found for has no text"):
        chosen(corpus(), [])


def test_changed_texts_are_found(chosen: Callable[..., SelectedTexts]) -> None:
    selected = chosen(corpus(), [TOPICS["tides"]])
    selected.file.write_bytes(selected.file.read_bytes().replace(b"moon", b"noon"))
    with pytest.raises(DamagedError, match="has changed"):
        SelectedTexts.open(selected.folder)


@pytest.mark.slow
def test_questions_about_type_hints_find_the_peps_about_them(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    from retrieval.embedding.load import EmbeddingSettings, load_embedder

    with gzip.open(shared_data("corpus_peps/peps.jsonl.gz"), "rt", encoding="utf-8") as lines:
        peps = {row["id"]: row for row in map(json.loads, lines)}
    some = ["pep-0484", "pep-0586", "pep-0440", "pep-0020", "pep-0257", "pep-0333"]
    texts = [TrainingText(name, peps[name]["text"][:12_000], peps[name]["title"]) for name in some]
    gold = ["How do I annotate a function that returns a literal string?", "What does a type checker infer here?"]
    selected = select(
        texts, [TrainingText(str(n), text) for n, text in enumerate(gold)],
        Selection(near="gold", neighbours=6, clusters=4), embedder=load_embedder(EmbeddingSettings()), seed=0,
        folder=tmp_path / "selected", progress=quiet, cache=tmp_path / "vectors",
    )  # fmt: skip
    found = [text.id.partition("#")[0] for text in selected.texts()]
    assert sum(name in ("pep-0484", "pep-0586") for name in found) >= 0.8 * len(found)

"""A whole run on a tiny encoder with random weights: mined, trained, stopped, gone on with, measured, loaded."""

import json
import threading
from pathlib import Path

import pytest
from fakes import HashingEmbedder
from tiny_encoders import hit, save_encoder

from adapt.encoders.mining import mine
from adapt.encoders.pair_recipe import Negatives, PairRecipe, PairSource
from adapt.encoders.pair_run import EncoderResult
from adapt.encoders.pair_training import Example, TrainingSettings, train, with_lora
from adapt.encoders.questions import load_questions
from adapt.encoders.running import run_pairs
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import UsageError
from retrieval.reranking.load import load_reranker

SUBJECTS = "tides moon bread flour water salt yeast index data pump".split()


def nothing(what: str, done: int, total: int) -> None:
    """No bar."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "encoders-cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("base") / "tiny-encoder")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Ninety questions on two subjects, each answered by the one text that names both."""
    rows = [
        {"query": f"the {one} {other} by", "positive": f"are {one} caused {other} are {one}"}
        for one in SUBJECTS
        for other in SUBJECTS
        if one != other
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe_of(base: Path, root: Path, **options: object) -> PairRecipe:
    return PairRecipe(
        encoder="reranker",
        name="tiny",
        root=root,
        base=str(base),
        data={"pairs": PairSource(path="pairs.jsonl", kind="pairs")},
        **{"held_out": 0.3, "epochs": 2.0, "max_tokens": 32, "lr": 1e-2, **options},  # type: ignore[arg-type]
    )


def run(recipe: PairRecipe, workspace: Path, stop: threading.Event | None = None) -> EncoderResult:
    return run_pairs(recipe, workspace=workspace, embedder=HashingEmbedder, progress=nothing, stop=stop)


def test_negatives_are_what_the_search_finds_without_what_may_be_right(pairs: Path, tmp_path: Path) -> None:
    dataset = load_questions("pairs", PairSource(path="pairs.jsonl", kind="pairs"), pairs, 0)
    found = mine(
        dataset,
        Negatives(last=10),
        held_out=0.3,
        depth=20,
        embedder=HashingEmbedder(),
        cache=tmp_path / "cache",
        progress=nothing,
    )
    assert 60 < len(found.groups) + len(found.rankings) <= 90  # a few have nothing near them that is surely wrong
    assert 10 < len(found.rankings) < 45
    for group in found.groups:
        assert group.positive not in group.negatives
        one, other = group.question.split()[1:3]
        assert group.positive == f"are {one} caused {other} are {one}"
        assert all(one in text or other in text for text in group.negatives[:3])  # near it, not just anything
    assert found.dropped["above the positive"] > 0
    held = {ranking.question for ranking in found.rankings}
    assert not held & {group.question for group in found.groups}


def test_a_training_that_was_stopped_goes_on_exactly(base: Path, tmp_path: Path) -> None:
    import torch

    from adapt.encoders.pair_recipe import PairMethod
    from retrieval.embedding.model_files import find_model
    from retrieval.reranking.cross_encoder import network_facts
    from retrieval.reranking.pair_encoder import pair_encoder
    from retrieval.reranking.pair_folder import load_trunk

    files = find_model(str(base))
    examples = [
        Example(f"the {one} by", f"are {one} caused", tuple(f"are {two} caused" for two in SUBJECTS if two != one))
        for one in SUBJECTS
    ]
    settings = TrainingSettings(1e-2, 1e-2, 6.0, 5, 3, 0, 100)

    def trained(folder: Path, stops: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], list[float]]:
        for at in (*stops, None):
            torch.manual_seed(0)
            network = pair_encoder(with_lora(load_trunk(files), PairMethod(r=4)), 1, token_types=False)
            stop = threading.Event()

            def watch(what: str, done: int, total: int, at: int | None = at, stop: threading.Event = stop) -> None:
                if done == at:
                    stop.set()

            folder.mkdir(exist_ok=True)
            result = train(
                network,
                examples,
                network_facts(files, 32).tokens(),
                settings,
                folder=folder,
                model="m",
                order="o",
                progress=watch,
                stop=stop,
            )
            assert result.finished == (at is None)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 13))
        return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}, [
            row["loss"] for row in rows
        ]

    straight, losses = trained(tmp_path / "straight", ())
    broken, again = trained(tmp_path / "broken", (4, 9))
    assert losses == again
    assert all(torch.equal(value, broken[name]) for name, value in straight.items())


def test_a_run_leaves_a_reranker_and_the_same_call_does_nothing_again(base: Path, pairs: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, pairs)
    result = run(recipe, tmp_path / "shelf")
    assert result.status == "finished"
    assert result.figures["nDCG@10 base"].n == result.facts["data"]["pairs"]["held_out"]
    reranker = load_reranker(str(result.result), device="cpu", cache=EmbeddingSettings().cache_folder())
    assert reranker is not None
    scores = reranker("the tides moon by", [hit("are tides caused moon are tides"), hit("are salt caused pump")])
    assert all(0.0 <= score <= 1.0 for score in scores)
    card = (tmp_path / "shelf" / "runs" / "tiny" / "result" / "README.md").read_text()
    assert "| pairs | pairs |" in card
    assert str(pairs) not in card + (result.result / "fathom.json").read_text()  # type: ignore[operator]
    before = (result.folder / "metrics.jsonl").read_text()
    again = run(recipe, tmp_path / "shelf")
    assert (again.status, (result.folder / "metrics.jsonl").read_text()) == ("finished", before)
    assert again.figures["nDCG@10 calibrated"] == result.figures["nDCG@10 calibrated"]


def test_a_gate_that_is_not_passed_offers_no_result(base: Path, pairs: Path, tmp_path: Path) -> None:
    result = run(recipe_of(base, pairs, gates=("nDCG@10 >= 1.0",), epochs=0.2), tmp_path / "shelf")
    assert (result.status, result.result, result.failed) == ("stopped at a gate", None, ("nDCG@10 >= 1.0",))


def test_a_folder_of_other_work_is_left_alone(base: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf" / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "shelf" / "runs" / "tiny" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="--run"):
        run(recipe_of(base, pairs), tmp_path / "shelf")


def test_a_support_checker_tells_classes_and_says_how_often_it_is_right(base: Path, tmp_path: Path) -> None:
    from retrieval.reranking.pair_classifier import load_pair_classifier

    rows, documents = [], []
    for number, one in enumerate(SUBJECTS * 4):
        documents.append({"_id": str(number), "title": "", "text": f"The {one} are caused by the moon. By the data."})
        label = ("SUPPORT", "CONTRADICT", "NOT_ENOUGH_INFO")[number % 3]
        rows.append({"claim": f"{one} {label[0]}", "label": label, "evidence_doc_id": str(number)})
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (tmp_path / "claims_evidence.jsonl").write_text(
        "".join(json.dumps({**row, "evidence_sentences": [0]}) + "\n" for row in rows)
    )
    recipe = PairRecipe(
        encoder="support",
        name="checker",
        root=tmp_path,
        base=str(base),
        data={"claims": PairSource(path=".", kind="claims")},
        held_out=0.4,
        max_tokens=32,
    )
    result = run(recipe, tmp_path / "shelf")
    assert result.status == "finished"
    assert set(result.figures) == {"accuracy base", "accuracy", "accuracy gain"}
    checker = load_pair_classifier(result.result, cache=EmbeddingSettings().cache_folder())  # type: ignore[arg-type]
    found = checker("the moon", ["by the moon", "flour"])
    assert [set(one) for one in found] == [{"support", "refute", "neutral"}] * 2
    assert all(sum(one.values()) == pytest.approx(1.0) for one in found)
    assert checker("the moon", []) == []

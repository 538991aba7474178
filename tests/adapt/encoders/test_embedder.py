"""An embedding adapter from pairs: the loss by hand, the batches, the share that is kept, a whole tiny run."""

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_embedders import WORDS, save_small_model

from adapt.encoders.embedder import NOTHING_GAINED, general_pairs, run_embedder
from adapt.encoders.embedder_plan import plan_embedder
from adapt.encoders.embedder_recipe import EmbedderRecipe, load_embedder_recipe
from adapt.encoders.embedder_training import TunedModel, batch_of, neighbours
from adapt.encoders.interpolation import Trial, chosen, reciprocal_ranks
from adapt.encoders.ranking_loss import ranking_loss
from adapt.encoders.running import run_embedding
from adapt.queries.pair_file import QueryPair, write_pairs
from adapt.registry import find
from retrieval.embedding.adapter import read_adapter
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.embedding.model_files import find_model
from retrieval.errors import ReadingError, UsageError

torch = pytest.importorskip("torch")


def test_the_loss_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    passages = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    # Cosines 1, 0, .6 and 0, 1, .8 at temperature 1: −ln of each own share.
    one = -math.log(math.e / (math.e + 1 + math.exp(0.6)))
    two = -math.log(math.e / (math.e + 1 + math.exp(0.8)))
    assert float(ranking_loss(queries, passages, everything, 1.0)) == pytest.approx((one + two) / 2)
    without = torch.tensor([[False, False, False], [True, False, True]])
    two = -math.log(math.e / (math.e + 1 + math.exp(0.8)))
    assert float(ranking_loss(queries, passages, without, 1.0)) == pytest.approx(two / 2), "its own always counts"


def pairs(count: int = 160) -> list[QueryPair]:
    """Ten subjects, each asked for by a word that its passages never use: what only training can tell."""
    words = [word for word in WORDS if word.isalpha()]
    found = []
    for number in range(count):
        subject = number % 10
        extra = f"{words[20 + number % 8]} {words[20 + number // 8 % 8]}"
        found.append(
            QueryPair(f"{words[subject]} {extra}", f"{words[10 + subject]} {extra} the", f"d{number}", "cloze")
        )
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"), "bert")


def recipe(place: Path, model: Path, **changes: object) -> EmbedderRecipe:
    write_pairs(place / "pairs.jsonl", pairs())
    write_pairs(place / "general.jsonl", pairs(40)[::-1])
    lines = {
        "encoder": "embedder", "base": str(model), "data": {"own": {"path": "pairs.jsonl"}},
        "general": {"path": "general.jsonl"}, "steps": 24, "batch": 8, "r": 4, "lr": 0.02, "max_tokens": 32,
        "held_out": 0.2, "shares": [0.5, 1.0], "save_steps": 8, **changes,
    }  # fmt: skip
    (place / "tiny.yaml").write_text(json.dumps(lines))
    return load_embedder_recipe(place / "tiny.yaml")


def test_a_batch_has_each_document_and_query_once_and_every_pair_comes() -> None:
    many = [QueryPair(f"q{n % 40}", f"text {n}", f"d{n % 20}", "title") for n in range(80)]
    settings = EmbedderRecipe(
        encoder="embedder", name="x", root=Path("/"), data={"own": {"path": "x"}}, batch=8  # type: ignore[dict-item]
    )  # fmt: skip
    seen: set[str] = set()
    for step in range(40):
        batch = batch_of(many, settings, step)
        assert len(batch) == len({pair.document for pair in batch}) == len({pair.query for pair in batch}) == 8
        seen |= {pair.positive for pair in batch}
    assert batch_of(many, settings, 3) == batch_of(many, settings, 3) != batch_of(many, settings, 4)
    assert len(seen) == 80
    few = many[:3]
    assert len(batch_of(few, settings, 0)) == 3


def test_queries_that_are_alike_come_into_one_batch(model: Path, tmp_path: Path) -> None:
    near = [[place for place in range(number // 4 * 4, number // 4 * 4 + 4) if place != number] for number in range(80)]
    many = [QueryPair(f"q{n}", f"text {n}", f"d{n}", "title") for n in range(80)]
    settings = recipe(tmp_path, model, alike=4, batch=8)
    batch = [int(pair.document[1:]) for pair in batch_of(many, settings, 2, near)]
    assert len(batch) == 8 and len({number // 4 for number in batch}) == 2, "two whole groups of four"
    seen = {pair.document for step in range(40) for pair in batch_of(many, settings, step, near)}
    assert len(seen) == 80
    found = neighbours(TunedModel(find_model(str(model)), settings), [*pairs(), *pairs()[:1]])
    assert found[0][0] == 160 and all(number not in row for number, row in enumerate(found))


def test_the_share_that_is_kept_loses_nothing_on_general_pairs() -> None:
    def trial(share: float, own: float, general: float) -> Trial:
        return Trial(share, np.full(4, own), np.full(4, general))

    stock = trial(0.0, 0.5, 0.8)
    found = [stock, trial(0.5, 0.6, 0.795), trial(1.0, 0.7, 0.7)]
    assert chosen(found, 0.01).share == 0.5, "the best of its own loses too much elsewhere"
    assert chosen(found, 0.2).share == 1.0
    assert chosen([stock, trial(1.0, 0.5, 0.9)], 0.01).share == 0.0, "of equals the one nearest to the stock model"
    assert chosen([stock, trial(1.0, 0.4, 0.9)], 0.01).share == 0.0
    by_chance = Trial(1.0, np.array([1.0, 0.3, 0.5, 0.4]), np.full(4, 0.9))
    assert by_chance.own.mean() > 0.5 and chosen([stock, by_chance], 0.01).share == 0.0, "one pair is no gain"
    alike = Trial(1.0, np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.45, 0.45]), np.full(4, 0.9))
    eight = [Trial(0.0, np.full(8, 0.5), np.full(4, 0.8)), alike]
    assert chosen(eight, 0.01).share == 1.0
    assert chosen(eight, 0.01, ["a"] * 4 + ["b"] * 2 + ["c"] * 2).share == 0.0, (
        "four pairs of one document are one gain"
    )


def test_a_share_of_the_update_lies_between_the_models(model: Path, tmp_path: Path) -> None:
    tuned = TunedModel(find_model(str(model)), recipe(tmp_path, model))
    with torch.no_grad():
        for name, value in tuned.lora.named_parameters():
            if "lora_B" in name:
                value.normal_()
    texts = ["tides are caused by the moon", "bread needs flour"]
    tuned.set_share(0.0)
    stock = tuned.vectors(texts, "")
    distances = []
    for share in (0.0, 0.25, 1.0):
        tuned.set_share(share)
        distances.append(float((tuned.vectors(texts, "") - stock).norm()))
    assert distances[0] == 0.0 < distances[1] < distances[2]


def test_ranks_by_hand(model: Path, tmp_path: Path) -> None:
    class Fixed:
        passage_prefix = query_prefix = ""

        def vectors(self, texts: list[str], prefix: str) -> torch.Tensor:
            places = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.8, 0.6), "qa": (1.0, 0.0), "qb": (0.8, 0.6)}
            return torch.tensor([places[text] for text in texts])

    # "qb" has a at .8, b at .6 and the negative c at 1: rank 3. "c" does not count as a's own document's.
    found = reciprocal_ranks(Fixed(), [QueryPair("qa", "a", "1", "x"), QueryPair("qb", "b", "2", "x", ("c",))])  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([1.0, 1 / 3])
    other = [QueryPair("", "c", "3", "x"), QueryPair("", "qb", "1", "x")]  # "qb" is of a's own document
    found = reciprocal_ranks(Fixed(), [QueryPair("qb", "a", "1", "x")], other)  # type: ignore[arg-type]
    assert found.tolist() == [0.5]


def test_a_whole_run_learns_and_its_adapter_is_what_embedding_loads(model: Path, tmp_path: Path) -> None:
    settings = recipe(tmp_path, model)
    result = run_embedding(settings, workspace=tmp_path / "ws", progress=lambda *_: None, run="tiny")
    assert result.status == "finished" and result.result is not None
    before, after = result.figures["own pairs, MRR, stock"], result.figures["own pairs, MRR, tuned"]
    assert after.mean > before.mean + 0.1 and after.n == 32
    adapter = read_adapter(result.result)
    entry = find(tmp_path / "ws" / "models", str(result.facts["model"]))
    assert entry.is_adapter and read_adapter(entry.folder).sha256 == adapter.sha256
    loading = EmbeddingSettings(
        model=str(model),
        adapter=entry.folder,
        backend="torch",
        device="cpu",
        precision="fp32",
        cache=tmp_path / "cache",
    )
    tuned = load_embedder(loading)
    held = pairs()[:40]
    scores = (
        tuned.embed_queries([pair.query for pair in held]) @ tuned.embed_passages([pair.positive for pair in held]).T
    )
    assert float((scores.argmax(axis=1) == np.arange(40)).mean()) > 0.3
    card = (result.result / "README.md").read_text()
    assert "held-out pairs" in card and "not stated in the recipe" in card
    again = run_embedding(settings, workspace=tmp_path / "ws", progress=lambda *_: None, run="tiny")
    assert again.facts["model"] == entry.name and again.figures == result.figures


def test_stopped_and_gone_on_with_it_learns_the_same(model: Path, tmp_path: Path) -> None:
    settings = recipe(tmp_path, model)
    whole = run_embedder(settings, tmp_path / "whole")
    stop = threading.Event()

    def at_ten(stage: str, done: int, total: int) -> None:
        if stage.startswith("training") and done == 10:
            stop.set()

    stopped = run_embedder(settings, tmp_path / "parts", at_ten, stop=stop)
    assert stopped.status == "stopped" and stopped.result is None
    gone_on = run_embedder(settings, tmp_path / "parts")
    assert whole.result is not None and gone_on.result is not None
    assert read_adapter(whole.result).sha256 == read_adapter(gone_on.result).sha256


def test_where_nothing_is_gained_there_is_no_adapter(model: Path, tmp_path: Path) -> None:
    result = run_embedder(recipe(tmp_path, model, lr=1e-9, steps=1), tmp_path / "run")
    assert (result.status, result.failed, result.result) == ("stopped at a gate", (NOTHING_GAINED,), None)
    assert not (tmp_path / "run" / "result").exists()


def test_too_few_pairs_and_wrong_files_are_told(model: Path, tmp_path: Path) -> None:
    settings = recipe(tmp_path, model)
    write_pairs(tmp_path / "pairs.jsonl", pairs(30))
    with pytest.raises(UsageError, match="too few.*fathom data queries"):
        run_embedder(settings, tmp_path / "run")
    write_pairs(tmp_path / "pairs.jsonl", pairs())
    with pytest.raises(UsageError, match="--negatives"):
        run_embedder(recipe(tmp_path, model, negatives=2), tmp_path / "run")
    (tmp_path / "pairs.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(ReadingError, match="line 1"):
        run_embedder(settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {}}, "no file of pairs"),
        ({"shares": []}, "shares"),
        ({"shares": [1.5]}, "shares"),
        ({"batch": 1}, "batch"),
        ({"poetry": 1}, "poetry"),
        ({"lr": 0}, "lr"),
    ],
)
def test_a_wrong_recipe_is_told_with_its_key(
    changes: dict[str, object], said: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        recipe(tmp_path, model, **changes)


def test_general_pairs_are_docstrings_where_none_are_named(model: Path, tmp_path: Path) -> None:
    found = general_pairs(recipe(tmp_path, model, general=None), 12)
    assert len(found) == 12 and all(pair.query not in pair.positive for pair in found)


def test_a_plan_counts_pairs_and_tells_what_stands_in_the_way(model: Path, tmp_path: Path) -> None:
    settings = recipe(tmp_path, model)
    found = plan_embedder(settings, progress=lambda *_: None)
    (source,) = found.sources
    assert (source.learned, source.held_out, found.steps) == (128, 32, 24)
    assert found.refusals == () and found.seconds is not None and found.seconds > 0
    (tmp_path / "pairs.jsonl").unlink()
    assert "fathom data queries" in plan_embedder(settings, progress=lambda *_: None).refusals[0]

"""A tiny trained reranker, made by hand: its LoRA matrices are merged as peft would, what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import hit, save_encoder

from retrieval.embedding.model_files import find_model, weights_hash
from retrieval.errors import DamagedError, MismatchError, MissingError, UsageError
from retrieval.reranking.cross_encoder import load_trained, network_facts
from retrieval.reranking.load import load_reranker, reranker_identity
from retrieval.reranking.pair_encoder import pair_encoder
from retrieval.reranking.pair_folder import RERANKER, PairFacts, judge_pair_folder, load_network, load_trunk
from retrieval.reranking.pairs import padded

CALIBRATION = {
    "hybrid": {"logit": 1.0, "fused": 0.0, "best logit": 0.0, "best dense": 0.0, "bias": 0.0},
    "dense": {"logit": 1.0, "dense": 0.0, "best logit": 0.0, "bias": 0.0},
    "lexical": {"logit": 1.0, "lexical": 0.0, "best logit": 0.0, "bias": 0.0},
    "none": {"logit": 1.0, "bias": 0.0},
}


def save_adapter(folder: Path, trunk_folder: Path, cache: Path, **changed: Any) -> Any:
    """LoRA matrices of peft with random numbers in both, and a random head; gives the network that peft runs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file

    torch.manual_seed(2)
    files = find_model(str(trunk_folder))
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    trunk = get_peft_model(load_trunk(files), config)
    trunk.save_pretrained(folder)
    network: Any = pair_encoder(trunk, 1, token_types=False)
    torch.nn.init.normal_(network.head.weight)
    save_file(dict(network.head.state_dict()), folder / "head.safetensors")
    facts = PairFacts(RERANKER, str(trunk_folder), weights_hash(files, cache), ("relevant",), 48, False, CALIBRATION)
    (folder / "fathom.json").write_text(json.dumps(facts.to_json() | changed))
    return network.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("base") / "tiny-encoder")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(base: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("adapter") / "tiny-reranker"
    return folder, save_adapter(folder, base, cache)


def test_merged_matrices_score_as_peft_does(trained: tuple[Path, Any], base: Path, cache: Path) -> None:
    import torch

    folder, network = trained
    merged = load_network(judge_pair_folder(folder, role=RERANKER, cache=cache))
    tokens = network_facts(find_model(str(base)), 48).tokens()
    batch = padded(tokens("what moves the tides", ["the moon", "潮 汐 月 亮", "bread needs flour"]), 0)
    with torch.inference_mode():
        given = [torch.from_numpy(each) for each in batch]
        ours, theirs = merged(*given), network(*given)
        plain = pair_encoder(load_trunk(find_model(str(base))), 1, token_types=False)(*given)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-2)  # the adapter changes what is said


def test_it_loads_by_its_folder_and_gives_probabilities(trained: tuple[Path, Any], cache: Path) -> None:
    folder, network = trained
    reranker = load_reranker(str(folder), device="cpu", threads=1, cache=cache)
    assert reranker is not None
    assert getattr(reranker, "calibrated", False)
    hits = [hit("the moon"), hit("潮 汐"), hit("bread needs flour water salt"), hit("the moon")]
    scores = reranker("what moves the tides", hits)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert scores[0] == scores[3]  # a text that comes twice has one score
    assert len(set(scores)) == 3
    assert reranker("what moves the tides", []) == []
    assert load_reranker("none") is None


def test_a_reranker_of_other_weights_or_calibration_is_another(
    trained: tuple[Path, Any], base: Path, cache: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    changed = CALIBRATION | {"none": {"logit": 2.0, "bias": 0.0}}
    save_adapter(tmp_path / "other", base, cache, calibration=changed)
    ours, theirs = (reranker_identity(str(place), cache=cache) for place in (folder, tmp_path / "other"))
    assert ours != theirs
    assert ours == reranker_identity(str(folder), cache=cache)
    assert reranker_identity("none", cache=cache) is None


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"role": "support"}, UsageError, "trained to be 'support'"),
        ({"base_sha256": "0" * 64}, MismatchError, "was trained on"),
        ({"base": "nobody/none"}, MissingError, "not on this machine"),
        ({"labels": []}, DamagedError, "does not say"),
        ({"max_tokens": "many"}, DamagedError, "does not say"),
        ({"format": 99}, DamagedError, "does not say"),
        ({"calibration": {"hybrid": {}}}, DamagedError, "calibration"),
    ],
)
def test_what_says_something_else_is_refused(
    tmp_path: Path, base: Path, cache: Path, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    save_adapter(tmp_path / "adapter", base, cache, **changed)
    with pytest.raises(error, match=words):
        load_trained(tmp_path / "adapter", device="cpu", threads=1, cache=cache)


def test_damaged_and_foreign_files_are_refused_before_they_are_used(tmp_path: Path, base: Path, cache: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    save_adapter(folder, base, cache)
    weights, file = load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.safetensors"

    def loading() -> Any:
        return load_network(judge_pair_folder(folder, role=RERANKER, cache=cache))

    name = next(key for key in weights if key.endswith("lora_A.weight"))
    save_file(weights | {name: torch.zeros(4, 7)}, file)
    with pytest.raises(DamagedError, match="does not fit"):
        loading()
    save_file(weights | {"base_model.model.evil.weight": torch.zeros(2)}, file)
    with pytest.raises(DamagedError, match="no LoRA matrix"):
        loading()
    file.write_bytes(b"no weights")
    with pytest.raises(DamagedError, match="safetensors"):
        loading()
    save_file(weights, file)
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, folder / "head.safetensors")
    with pytest.raises(DamagedError, match="the head"):
        loading()
    (folder / "head.safetensors").unlink()
    with pytest.raises(MissingError, match=r"head\.safetensors"):
        loading()
    (folder / "head.safetensors").symlink_to(base / "model.safetensors")
    with pytest.raises(UsageError, match="a link"):
        loading()

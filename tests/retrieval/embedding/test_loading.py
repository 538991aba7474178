"""The back end and precision that get chosen, what is kept in the cache, and that nothing is sent anywhere."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.embedding import conversion, openvino_backend, torch_backend
from retrieval.embedding.conversion import converted, converted_folder, facts_in
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.embedding.model_files import find_model, weights_hash
from retrieval.embedding.no_telemetry import import_openvino
from retrieval.embedding.probes import PROBES, least_cosine, probe_vectors
from retrieval.embedding.stored import is_whole
from retrieval.errors import MissingError, UsageError

TEXTS = ["tides are caused by the moon", "潮汐 由 月亮 引起", "salt", "bread needs flour , water , salt and yeast " * 6]


def load(model: Path, cache: Path, **settings: Any) -> Embedder:
    return load_embedder(EmbeddingSettings(model=str(model), device="cpu", threads=1, cache=cache, **settings))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("bert", {"pooling": "cls"}),
        ("bert", {"pooling": "max"}),
        ("distilbert", {"dense": 16}),
        ("roberta", {}),
        ("mpnet", {}),
        ("modernbert", {}),
        ("qwen3", {"pooling": "lasttoken"}),
        ("bert", {"pooling": ("mean", "cls")}),
    ],
)
def test_every_architecture_gives_the_vectors_of_sentence_transformers(
    architecture: str, options: dict[str, Any], tmp_path: Path, save_model: Any
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save_model(tmp_path, architecture, **options)
    embedder = load(folder, tmp_path / "cache", precision="fp32")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    assert embedder.backend == "openvino-fp32"
    assert least_cosine(embedder.embed_passages(TEXTS), expected) > 0.99999
    assert embedder.max_tokens == 64


def test_prefixes_are_put_before_and_counted(small_model: Path, tmp_path: Path) -> None:
    plain = load(small_model, tmp_path, query_prefix="", passage_prefix="", precision="fp32")
    prefixed = load(small_model, tmp_path, precision="fp32")
    assert (prefixed.fingerprint.query_prefix, prefixed.fingerprint.passage_prefix) == ("query : ", "passage : ")
    assert prefixed.count(["salt"])[0] == plain.count(["salt"])[0] + 2
    assert np.allclose(prefixed.embed_queries(["salt"]), plain.embed_queries(["query : salt"]), atol=1e-5)
    assert np.allclose(prefixed.embed_passages(["salt"]), plain.embed_queries(["passage : salt"]), atol=1e-5)
    assert least_cosine(probe_vectors(prefixed), probe_vectors(plain)) < 0.999, "the probes must show a lost prefix"
    with pytest.raises(UsageError, match="prefix"):
        load(small_model, tmp_path, query_prefix="moon " * 60)


def test_a_converted_model_loads_without_torch(small_model: Path, tmp_path: Path) -> None:
    load(small_model, tmp_path)
    script = (
        "import sys; from pathlib import Path; from retrieval.embedding.load import *;"
        "e = load_embedder(EmbeddingSettings(model=sys.argv[1], device='cpu', cache=Path(sys.argv[2])));"
        "e.embed_queries(['salt']); e.embed_passages(['salt']);"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'nncf'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", script, str(small_model), str(tmp_path)]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_settings_and_device_imports_are_light() -> None:
    script = (
        "import sys; import retrieval.embedding.load; print(sorted({'numpy', 'torch', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_damaged_converted_model_is_made_again(small_model: Path, tmp_path: Path) -> None:
    good = load(small_model, tmp_path, precision="fp32")
    folder = converted_folder(good.fingerprint.weights, tmp_path)
    content = bytearray((folder / "model.bin").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "model.bin").write_bytes(content)
    again = load(small_model, tmp_path, precision="fp32")
    assert np.array_equal(again.embed_passages(TEXTS), good.embed_passages(TEXTS))
    assert {entry.name for entry in folder.iterdir()} == {"model.bin", "model.xml", "facts.json", "hashes.json"}
    assert [entry for entry in folder.parent.iterdir() if entry != folder] == [], "leftovers in the cache"


def test_two_conversions_at_once_both_succeed(small_model: Path, tmp_path: Path) -> None:
    files = find_model(str(small_model))
    weights = weights_hash(files, tmp_path)
    errors: list[BaseException] = []
    level = logging.getLogger().level

    def convert() -> None:
        try:
            converted(files, weights, tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=convert) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_whole(converted_folder(weights, tmp_path))
    assert logging.getLogger().level == level, "the converter's own logging must not stay"


def test_a_changed_model_is_another_model(small_model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    copy = Path(shutil.copytree(small_model, tmp_path / "copy"))
    before = load(copy, tmp_path / "cache", precision="fp32")
    tensors = load_file(copy / "model.safetensors")
    save_file({name: value + 0.05 for name, value in tensors.items()}, copy / "model.safetensors", {"format": "pt"})
    after = load(copy, tmp_path / "cache", precision="fp32")
    assert before.fingerprint.weights != after.fingerprint.weights
    assert least_cosine(probe_vectors(before), probe_vectors(after)) < 0.999


def test_bf16_is_chosen_by_measurement(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(bf16: bool) -> Any:
        return lambda *_: openvino_backend.SelfTest(bf16=bf16, cosine=0.9999, speedup=2.0)

    abilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text()
        assert ("BF16" in abilities) == any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
    if "BF16" not in abilities:
        assert load(small_model, tmp_path).backend == "openvino-fp32"
        return
    monkeypatch.setattr(openvino_backend, "_measure", measured(True))
    assert load(small_model, tmp_path / "a").backend == "openvino-bf16"
    monkeypatch.setattr(openvino_backend, "_measure", measured(False))
    assert load(small_model, tmp_path / "a").backend == "openvino-bf16", "measured once for a machine"
    assert load(small_model, tmp_path / "b").backend == "openvino-fp32"
    monkeypatch.setattr(openvino_backend, "SELF_TEST_VERSION", 0)
    assert load(small_model, tmp_path / "a").backend == "openvino-fp32", "another version measures again"


def test_the_self_test_measures_this_machine(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "SELF_TEST_SECONDS", 0.0)
    files = find_model(str(small_model))
    folder = converted(files, weights_hash(files, tmp_path), tmp_path)
    ids = np.tile(np.arange(4, 20, dtype=np.int64), (4, 1))
    result = openvino_backend._measure(folder / conversion.MODEL, ids, np.ones_like(ids), 1)
    assert 0.9 < result.cosine < 1.00001 and result.speedup > 0


def test_torch_gives_the_same_vectors(small_model: Path, tmp_path: Path) -> None:
    ours = load(small_model, tmp_path, precision="fp32")
    torchs = load(small_model, tmp_path, precision="fp32", backend="torch")
    assert torchs.backend == "torch-cpu-fp32"
    assert torchs.fingerprint == ours.fingerprint
    assert least_cosine(probe_vectors(ours), probe_vectors(torchs)) > 0.99999
    assert torchs.count(TEXTS) == ours.count(TEXTS)
    assert torchs.embed_passages([]).shape == (0, 32)
    halved = load(small_model, tmp_path, precision="bf16", backend="torch")
    assert halved.backend == "torch-cpu-bf16" and halved.fingerprint.precision == "bf16"
    assert least_cosine(probe_vectors(ours), probe_vectors(halved)) > 0.99


def test_a_model_that_openvino_gets_wrong_runs_on_torch(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_agreement", lambda *_: 0.9)
    embedder = load(small_model, tmp_path)
    assert embedder.backend == "torch-cpu-fp32"
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("what failed once is not tried at every start"))
    assert load(small_model, tmp_path).backend == "torch-cpu-fp32"
    weights = embedder.fingerprint.weights
    assert "cosine 0.9" in facts_in(converted_folder(weights, tmp_path)).unsupported
    with pytest.raises(UsageError, match="OpenVINO cannot run"):
        load(small_model, tmp_path, backend="openvino")
    with pytest.raises(UsageError, match="OpenVINO"):
        load(small_model, tmp_path, precision="int8")


def test_half_precision_is_taken_only_where_vectors_stay(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_model(str(small_model))
    assert torch_backend.half_precision(files, "cpu") in {"fp16", "bf16", "fp32"}
    monkeypatch.setattr(torch_backend, "MIN_COSINE_OF_HALF", 2.0)
    assert torch_backend.half_precision(files, "cpu") == "fp32"


def test_a_batch_that_does_not_fit_is_halved(small_model: Path) -> None:
    import torch

    model = torch_backend.load_model(find_model(str(small_model)), "cpu", "fp32")

    class Small(torch.nn.Module):
        """A device with room for two texts."""

        def forward(self, features: dict[str, torch.Tensor]) -> Any:
            if len(features["input_ids"]) > 2:
                raise torch.OutOfMemoryError("no room")
            return model(features)

    ids = np.arange(4, 24, dtype=np.int64).reshape(5, 4)
    mask = np.ones_like(ids)
    expected = torch_backend.TorchEncoder(model, "cpu")(ids, mask)
    np.testing.assert_allclose(torch_backend.TorchEncoder(Small(), "cpu")(ids, mask), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ""},
        {"device": "tpu"},
        {"threads": -1},
        {"precision": "int8", "device": "cuda"},
        {"precision": "int8", "backend": "torch"},
        {"precision": "fp16", "backend": "openvino"},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EmbeddingSettings(**settings)


def test_a_device_that_is_not_there_is_said(small_model: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(MissingError, match="only the CPU"):
        load_embedder(EmbeddingSettings(model=str(small_model), device="cuda:0", cache=tmp_path))


@pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="needs an NVIDIA GPU")
def test_the_gpu_gives_the_same_vectors(exact: Embedder, cache: Path) -> None:
    on_gpu = load_embedder(EmbeddingSettings(cache=cache))
    assert on_gpu.backend.startswith("torch-cuda")
    assert least_cosine(probe_vectors(exact), probe_vectors(on_gpu)) > 0.999


def test_a_cache_that_cannot_be_written_is_said(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Exception, match="cache") as caught:
        load(small_model, tmp_path / "file")
    assert type(caught.value).__module__ == "retrieval.errors"


# Runs in a fresh process: conversion, embedding and quantisation, with every connection a failure.
WATCHED = """
import json, sys
from pathlib import Path
reached = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"}:
        reached.append([event, repr(arguments)[:100]])
sys.addaudithook(watch)
from retrieval.embedding.load import EmbeddingSettings, load_embedder, quantise
settings = EmbeddingSettings(model=sys.argv[1], device="cpu", cache=Path(sys.argv[2]))
load_embedder(settings).embed_queries(["salt"])
if sys.argv[3] == "int8":
    quantise(settings, ["moon"] * 4)
import threading
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
print(json.dumps({"reached": reached, "sender": sys.modules.get("openvino_telemetry") is not None}))
"""


@pytest.mark.parametrize("what", ["bf16", pytest.param("int8", marks=pytest.mark.slow)])
def test_nothing_is_sent_anywhere(what: str, small_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("CI", "HF_", "NNCF_", "PYTEST"))
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(small_model), str(tmp_path / "cache"), what],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"reached": [], "sender": False}
    assert not (home / "intel").exists(), "OpenVINO's telemetry left a client id"
    assert done.stderr == "", "nothing below the command line speaks"


def test_telemetry_that_was_imported_before_is_mute(tmp_path: Path) -> None:
    script = (
        "import openvino_telemetry as t; from retrieval.embedding.no_telemetry import refuse_telemetry as r; r(); r();"
        "from openvino_telemetry.utils.sender import TelemetrySender as S; s = S();"
        "s.send(None, None); print(s.executor is None or not s.executor._threads)"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_probes_fit_every_model(exact: Embedder) -> None:
    assert max(exact.count(PROBES)) <= 64
    assert probe_vectors(exact).shape == (2 * len(PROBES), exact.dimension)

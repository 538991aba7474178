"""A GGUF that OpenVINO would round → a folder that computes what the file says, made once, whole or not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_exports import TEMPLATE, TEXTS, greedy, made_adapter, made_model, tokenizer_of

from adapt.export.gguf_file import Kind, export_gguf
from adapt.export.gguf_to_openvino import convert
from adapt.export.openvino_folder import made_of
from adapt.training.bases import base_folder, weights_hash
from app.engines import conversion, loading
from app.engines.conversion import EXACT, converted, is_exact
from app.engines.embedded import EmbeddedModel, open_embedded
from app.engines.gguf import read_header
from app.engines.loading import load_model
from app.engines.speaker import Manners
from retrieval.embedding.stored import is_whole
from retrieval.errors import DamagedError, MissingError, UsageError

FP32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
PLAIN = Manners(max_new_tokens=8, repetition_penalty=1.0)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that splits text as SmolLM does, as "q4_1.gguf" and "q8_0.gguf"."""
    folder = tmp_path_factory.mktemp("conversion")
    model = made_model(folder / "model", "llama", tokenizer_of("smollm"))
    kinds: tuple[Kind, ...] = ("q4_1", "q8_0")
    for kind in kinds:
        export_gguf(model, folder / f"{kind}.gguf", kind=kind)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Converts in this process, which has imported everything already; the files that were converted."""
    done: list[Path] = []

    def in_process(asked: dict[str, str]) -> None:
        done.append(Path(asked["gguf"]))
        try:
            convert(done[-1], Path(asked["folder"]), cache=Path(asked["cache"]))
        except OSError as error:
            raise MissingError(f"no room for it ({error})") from error

    monkeypatch.setattr(conversion, "_convert", in_process)
    yield done


def of_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Of an OpenVINO folder, of every token."""
    import openvino

    request = openvino.compile_model(str(folder / "openvino_model.xml"), "CPU", FP32).create_infer_request()
    given = np.array([ids], dtype=np.int64)
    request.infer(
        {
            "input_ids": given,
            "attention_mask": np.ones_like(given),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
    )
    return np.array(request.get_tensor("logits").data[0], dtype=np.float32)


def test_the_folder_is_the_model_of_the_file_in_a_process_of_its_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    file, told = place / "q4_1.gguf", []
    monkeypatch.setattr(loading, "_pipeline", partial(loading._pipeline, **FP32))
    loaded = load_model(file, cache=tmp_path, tell=told.append)
    assert [text.split(" ready")[0] for text in told] == ["making q4_1.gguf"]
    assert (loaded.name, loaded.context_window, loaded.path) == ("q4_1", 512, file)
    (folder,) = (tmp_path / "engines").iterdir()
    assert is_whole(folder) and sorted(os.listdir(tmp_path)) == ["engines"]
    own = base_folder(str(file), cache=tmp_path / "unpacked")
    assert made_of(folder) == weights_hash(own, cache=tmp_path)
    model, tokenizer = of_transformers(own)
    assert loaded.tokenizer.chat_template == tokenizer.chat_template == TEMPLATE
    for text in (*TEXTS, "it worked\n\n1. then\n  22 of 300", "第一步\n\n1、水温80度"):
        read = loaded.tokenizer.encode(text, add_special_tokens=False).input_ids.data.tolist()[0]
        assert read == tokenizer(text, add_special_tokens=False)["input_ids"], text
    ids = tokenizer("the cat sat on the log and 绿茶 " * 4)["input_ids"]
    with torch.no_grad():
        true = model(torch.tensor([ids])).logits[0].numpy()
    assert np.sqrt(((logits(folder, ids) - true) ** 2).mean()) < 0.01 * true.std()
    speaker = open_embedded(EmbeddedModel(file, cache=tmp_path), PLAIN)
    written: list[int] = []
    for text in TEXTS[:3]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        speaker._writer.write(
            np.array([ids]),
            max_new_tokens=8,
            sampling=_greedy(),
            role=None,
            emit=written.extend,
            cancelled=lambda: False,
        )
        wanted = greedy(model, ids, 8)
        ends = [n for n, token in enumerate(wanted) if token == tokenizer.eos_token_id]
        assert [t for t in written if t != tokenizer.eos_token_id] == wanted[: ends[0] if ends else 8], text
        written.clear()
    assert len(told) == 1  # the second load found it


def _greedy() -> Any:
    from app.engines.generating import Sampling

    return Sampling(temperature=0.0, repetition_penalty=1.0)


def test_only_what_openvino_would_round_is_made_anew_and_only_once(
    place: Path, tmp_path: Path, here: list[Path]
) -> None:
    rounded, plain = place / "q4_1.gguf", place / "q8_0.gguf"
    assert not is_exact(read_header(rounded)) and is_exact(read_header(plain))
    assert read_header(plain).kinds == {0, 8} <= EXACT
    for _ in range(2):
        loaded = load_model(plain, cache=tmp_path)
        assert loaded.tokenizer.get_eos_token() == "<|im_end|>"
        assert loaded.pipeline.get_config().eos_token_id == loaded.tokenizer.get_eos_token_id()
    assert not here
    (as_it_is,) = (tmp_path / "engines").iterdir()
    assert is_whole(as_it_is) and (as_it_is / "openvino_tokenizer.xml").is_file()
    for _ in range(2):
        loaded = load_model(rounded, cache=tmp_path)
        assert loaded.pipeline.get_config().eos_token_id == loaded.tokenizer.get_eos_token_id()
    assert here == [rounded]
    folder = converted(rounded, tmp_path)
    data = bytearray((folder / "openvino_model.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "openvino_model.bin").write_bytes(data)
    assert converted(rounded, tmp_path) == folder
    assert here == [rounded, rounded] and is_whole(folder)


def test_what_lies_unpacked_already_is_not_unpacked_again(
    place: Path, tmp_path: Path, here: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = base_folder(str(place / "q4_1.gguf"), cache=tmp_path)
    found: list[Path] = []
    monkeypatch.setattr(
        "adapt.export.openvino_folder.export_openvino", lambda folder, out, **_: found.append(folder) or out.touch()
    )
    convert(place / "q4_1.gguf", tmp_path / "out" / "folder", cache=tmp_path)
    assert found == [own]


def test_without_a_cache_that_can_be_written_it_is_made_for_this_time(
    place: Path, tmp_path: Path, here: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, room = place / "q4_1.gguf", tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    (tmp_path / "file").touch()
    exact = open_embedded(EmbeddedModel(file, cache=tmp_path / "cache"), PLAIN)
    speaker = open_embedded(EmbeddedModel(file, cache=tmp_path / "file"), PLAIN)
    assert speaker.choice_logprobs(["the cat"], ["a", "z"]) == exact.choice_logprobs(["the cat"], ["a", "z"])
    assert not list(room.iterdir())
    assert "made in a temporary folder" in caplog.text
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    rounded = open_embedded(EmbeddedModel(file, cache=tmp_path / "file"), PLAIN)
    assert "q4_1.gguf runs as OpenVINO rounds it" in caplog.text
    assert rounded.choice_logprobs(["the cat"], ["a", "z"]) != exact.choice_logprobs(["the cat"], ["a", "z"])


def test_adapters_go_on_a_gguf_and_know_its_unpacked_weights_by_hash(
    place: Path, tmp_path: Path, here: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.engines.local import LocalModel, open_local

    monkeypatch.setattr(loading, "_pipeline", partial(loading._pipeline, **FP32))
    file = place / "q8_0.gguf"
    base = base_folder(str(file), cache=tmp_path)
    adapters = {"rewriter": made_adapter(base, tmp_path / "one", lora_alpha=64)}
    ours = open_embedded(EmbeddedModel(file, adapters=adapters, cache=tmp_path), PLAIN)
    theirs = open_local(LocalModel(str(file), adapters=adapters, cache=tmp_path, device="cpu"), PLAIN)
    for role in (None, "rewriter"):
        found, wanted = (one.choice_logprobs(["the cat", "绿茶"], ["a", "不"], role=role) for one in (ours, theirs))
        for row, true in zip(found, wanted, strict=True):
            assert row == pytest.approx(true, abs=0.01)
    assert here == [file]
    other = made_adapter(place / "model", tmp_path / "other")
    with pytest.raises(UsageError, match="'other' was trained on 'model' .* has other weights"):
        load_model(file, adapter=other, cache=tmp_path)
    monkeypatch.setattr(conversion, "UNPACK_UP_TO", 10)
    with pytest.raises(UsageError, match="cannot put the adapter .* on a GGUF file as large as"):
        loading.require_loadable(file, other)


def test_what_is_no_model_is_said_by_the_process_that_reads_it(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes((place / "q4_1.gguf").read_bytes()[:-4000])
    with pytest.raises(DamagedError, match=r"bad\.gguf cannot be made ready for OpenVINO: the model 'bad' cannot be"):
        converted(bad, tmp_path)
    assert not list((tmp_path / "engines").glob("[!.]*"))


def test_the_process_ends_with_who_asked_for_it(place: Path, tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    asked = {"gguf": str(place / "q4_1.gguf"), "folder": str(tmp_path / "room" / "folder"), "cache": str(tmp_path)}
    asked["temporary"] = str(tmp_path / "room")
    done = subprocess.run(
        [sys.executable, "-m", "app.engines.converter"],
        input=json.dumps(asked) + "\n",  # and then nothing more: it is closed
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert not (tmp_path / "room").exists()


@pytest.mark.slow
def test_the_packaged_base_is_known_by_its_hash(packaged_cache: Path, tmp_path: Path) -> None:
    from eval.models.packaged import SAME_WEIGHTS

    assert weights_hash(base_folder("packaged", cache=packaged_cache), cache=tmp_path) in SAME_WEIGHTS

"""The words for rerankers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ScriptedJudge
from scripted_llm import ScriptedLLM

from app.rerankers import LanguageModelWord, calibration_of, language_model_word, reranker_identity, reranker_named
from app.settings import Settings
from retrieval.errors import MissingError, UsageError
from retrieval.llm_reranking.calibration import Platt, write_calibration
from retrieval.llm_reranking.listwise import ListwiseReranker
from retrieval.llm_reranking.pairwise import PairwiseReranker
from retrieval.llm_reranking.pointwise import PointwiseReranker


@pytest.mark.parametrize(
    ("word", "kind", "engine"),
    [
        ("llm", "pointwise", None),
        ("llm:pointwise", "pointwise", None),
        ("llm:listwise", "listwise", None),
        ("llm:local", "pointwise", "local"),
        ("llm:local:my-model", "pointwise", "local:my-model"),
        ("llm:pairwise:local:my-model", "pairwise", "local:my-model"),
        ("llm:listwise:http://127.0.0.1:8000/v1#big", "listwise", "http://127.0.0.1:8000/v1#big"),
        ("llm:http://127.0.0.1:8000/v1", "pointwise", "http://127.0.0.1:8000/v1"),
    ],
)
def test_a_word_names_kind_and_engine(word: str, kind: Any, engine: str | None) -> None:
    assert language_model_word(word) == LanguageModelWord(kind, engine)


def test_other_words_name_no_language_model(tmp_path: Path) -> None:
    assert language_model_word("BAAI/bge-reranker-base") is None and language_model_word("llmware/x") is None
    with pytest.raises(UsageError, match="ends in a colon"):
        language_model_word("llm:listwise:")
    settings = Settings(workspace=tmp_path)
    with pytest.raises(UsageError, match="names no server"):
        reranker_named(settings, "score:here", lambda name: ScriptedLLM(say=str))
    with pytest.raises((UsageError, MissingError)):
        reranker_named(settings, str(tmp_path / "none"), lambda name: ScriptedLLM(say=str))


def test_each_kind_is_made_with_the_engine_that_is_named(tmp_path: Path) -> None:
    settings, asked = Settings(workspace=tmp_path), []

    def llm(name: str | None) -> Any:
        asked.append(name)
        return ScriptedJudge(weigh=lambda text: 0.5)

    made = [reranker_named(settings, word, llm) for word in ("llm", "llm:listwise:local", "llm:pairwise:embedded")]
    assert [type(one) for one in made] == [PointwiseReranker, ListwiseReranker, PairwiseReranker]
    assert asked == [None, "local", "embedded"]
    with pytest.raises(UsageError, match="shows no probabilities"):
        reranker_named(settings, "llm", lambda name: ScriptedLLM(say=str))


def test_a_calibration_beside_the_model_is_used_and_decides_the_scores(tmp_path: Path) -> None:
    settings, folder = Settings(workspace=tmp_path), tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    word = f"llm:{folder}"
    before = reranker_identity(settings, word, lambda name: name)
    write_calibration(folder, Platt(1.5, -2.0, 100, 0.4))
    after = reranker_identity(settings, word, lambda name: name)
    assert before["calibration"] is None and after["calibration"]["slope"] == 1.5
    assert before | {"calibration": None} == after | {"calibration": None}
    assert after["engine"] == str(folder) and after["prompt_version"] == "judge-1"
    made: Any = reranker_named(settings, word, lambda name: ScriptedJudge(weigh=lambda text: 0.5))
    assert made.calibrated and made.calibration == Platt(1.5, -2.0, 100, 0.4)
    role = tmp_path / "role"
    shutil.copytree(folder, role)
    write_calibration(role, Platt(2.5, -1.0, 80, 0.5))
    own = replace(settings, engine=replace(settings.engine, model=folder, adapters={"reranker": role}))
    assert calibration_of(own, None) == Platt(2.5, -1.0, 80, 0.5)
    assert calibration_of(replace(own, engine=replace(own.engine, adapters={})), None) == Platt(1.5, -2.0, 100, 0.4)
    assert reranker_identity(settings, "none", lambda name: name) is None
    assert reranker_identity(settings, "score:http://127.0.0.1:1/v1#m", lambda name: name) == {
        "server": "http://127.0.0.1:1/v1",
        "model": "m",
    }

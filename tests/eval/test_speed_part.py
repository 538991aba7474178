"""Generation, serving, search and indexing as parts of a run: records, curves, errors, resuming. No clock is judged."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder, five_documents
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms.custom import CustomLLM

from eval.runs.parts import PartFolder, Tools
from eval.speed.adapters import Adapted
from eval.speed.measuring import resident_mb
from eval.speed.part import SpeedPart
from eval.speed.prompts import prompt
from eval.speed.serving import curve, measure
from retrieval.collection import Collection
from retrieval.errors import FathomError, ReadingError, UsageError


class ScriptedLLM(CustomLLM):
    """Writes "Tides are [1]." in three tokens, a little slowly; questions with "fail" in them raise."""

    stoppable: bool = True
    pause: float = 0.0
    _asked: list[str] = PrivateAttr(default_factory=list)
    _most: int = PrivateAttr(default=0)
    _running: int = PrivateAttr(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, num_output=64, is_chat_model=True, model_name="scripted")

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        text = str(messages[-1].content)
        self._asked.append(text)
        if "fail" in text:
            raise FathomError("the engine is out of order")

        def responses() -> ChatResponseGen:
            self._running += 1
            self._most = max(self._most, self._running)
            try:
                for delta in ("Tides", " are", " [1]."):
                    kwargs["stop"].wait(self.pause)
                    yield ChatResponse(message=ChatMessage(role="assistant", content=""), delta=delta)
                raw = {"prompt_tokens": len(text.split()), "completion_tokens": 3, "finish_reason": "stop"}
                yield ChatResponse(message=ChatMessage(role="assistant", content=""), delta="", raw=raw)
            finally:
                self._running -= 1

        return responses()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


@pytest.fixture
def shelf(tmp_path: Path, hashing_embedder: HashingEmbedder) -> Any:
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: hashing_embedder) as made:
        made.add(five_documents())
        yield made


def tools(llm: ScriptedLLM | None = None, shelf: Any = None) -> Tools:
    return Tools(
        cache=Path("unused"),
        embedder=HashingEmbedder,
        llm=lambda name: llm,  # type: ignore[arg-type,return-value]
        collection=lambda name: shelf,
    )


def run(part: SpeedPart, at_hand: Tools, folder: Path) -> tuple[PartFolder, Any]:
    prepared = part.prepare(at_hand)
    made = PartFolder(folder)
    extras = prepared.run(made, quiet)
    assert len(made.done()) == prepared.items
    return made, extras


def test_prompts_have_the_length_asked_for_and_begin_differently() -> None:
    def words(text: str) -> int:
        return len(text.split())

    for tokens in (40, 200, 1500):
        assert tokens <= words(prompt(tokens, words, seed=1)) <= tokens + 20
    assert prompt(200, words, seed=1) == prompt(200, words, seed=1)
    assert len({prompt(200, words, seed=seed)[:6] for seed in range(50)}) > 45
    with pytest.raises(UsageError, match="too short"):
        prompt(12, words, seed=0)


def test_generation_has_a_record_for_each_length_and_repeat(tmp_path: Path) -> None:
    llm = ScriptedLLM()
    part = SpeedPart("generation", prompt_tokens=(50, 100), new_tokens=8, repeats=3)
    folder, extras = run(part, tools(llm), tmp_path)
    assert len(llm._asked) == 6 + 1 and len(set(llm._asked)) == 7  # one to warm up; no prompt twice
    record = folder.done()["100-tokens-2"]
    assert set(record["metrics"]) == {"100_tokens_first_token_ms", "100_tokens_decode_tokens_per_second"}
    assert record["metrics"]["100_tokens_first_token_ms"] > 0 and 100 <= record["prompt_tokens"] <= 120
    assert [(row["prompt"], row["repeats"], row["completion_tokens"]) for row in extras["table"]] == [
        (50, 3, 3.0),
        (100, 3, 3.0),
    ]
    run(part, tools(llm), tmp_path)
    assert len(llm._asked) == 7  # what is done is not asked again
    with pytest.raises(UsageError, match="reads 2,048 tokens, too few"):
        SpeedPart("generation", prompt_tokens=(2000,)).prepare(tools(llm))


class AdaptedLLM(ScriptedLLM):
    """With roles; who was asked is kept."""

    _role: str = PrivateAttr(default="base")
    _who: list[str] = PrivateAttr(default_factory=list)

    def under(self, role: str) -> "AdaptedLLM":
        view = self.model_copy()
        view._role = role
        return view

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        self._who.append(self._role)
        return super().stream_chat(messages, **kwargs)


def test_adapters_are_measured_in_fresh_engines_when_each_role_has_answered(tmp_path: Path) -> None:
    llm, opened = AdaptedLLM(), []

    @contextmanager
    def adapted(word: str | None, roles: Sequence[str]) -> Iterator[Adapted]:
        opened.append((word, tuple(roles)))
        yield Adapted(llm, lambda: [os.getpid()])
        opened.append("closed")

    there = {}
    for role in ("rewriter", "answerer"):
        there[role] = tmp_path / role
        there[role].mkdir()
        (there[role] / "adapter_model.safetensors").write_bytes(role.encode())
    at_hand = Tools(cache=Path("unused"), adapters=lambda: there, adapted=adapted)
    part = SpeedPart("adapters", prompt_tokens=(60,), new_tokens=8, repeats=2)
    folder, extras = run(part, at_hand, tmp_path / "run")
    wanted = [(None, ()), (None, ("rewriter",)), (None, ("rewriter", "answerer"))] * 2
    assert opened == [one for pair in wanted for one in (pair, "closed")]
    assert llm._who == ["base", "base", *["base", "rewriter"] * 2, *["base", "rewriter", "answerer"] * 2] * 2
    assert [(row["adapters"], row["repeats"], list(row["asked"])) for row in extras["adapted"]] == [
        ([], 2, ["base"]),
        (["rewriter"], 2, ["base", "rewriter"]),
        (["rewriter", "answerer"], 2, ["base", "rewriter", "answerer"]),
    ]
    # This very process: what the kernel says of it, to within what the test itself takes meanwhile.
    (row,) = extras["adapted"][2:]
    assert 0 < row["pss_mb"] <= row["rss_mb"] == pytest.approx(resident_mb(), rel=0.2)
    assert row["asked"]["answerer"]["completion_tokens"] == 3.0
    assert folder.done()["2-adapters-1"]["metrics"]["2_adapters_pss_mb"] > 0
    opened.clear()
    run(replace(part, engine="vllm"), at_hand, tmp_path / "served")
    assert [one for one in opened if one != "closed"] == [("vllm", ()), ("vllm", ("rewriter", "answerer"))] * 2
    with pytest.raises(UsageError, match="no adapter to measure"):
        part.prepare(replace(at_hand, adapters=dict))


def test_serving_has_so_many_users_at_once_and_a_curve(tmp_path: Path) -> None:
    llm = ScriptedLLM(pause=0.005)
    folder, extras = run(
        SpeedPart("serving", users=(1, 6), rounds=3, prompt_tokens=(60,), new_tokens=8), tools(llm), tmp_path
    )
    assert len(llm._asked) == 3 + 18 + 1 == len(set(llm._asked))
    assert 2 <= llm._most <= 6
    record = folder.done()["6-users-2-3"]
    assert set(record["metrics"]) == {
        "6_users_first_token_ms",
        "6_users_total_ms",
        "6_users_tokens_per_second",
        "6_users_requests_per_second",
    }
    assert record["metrics"]["6_users_requests_per_second"][0] == 6 and record["cluster"] == "6-users-round-3"
    one, six = extras["curve"]
    assert (one["users"], one["requests"], one["errors"]) == (1, 3, 0)
    assert (six["users"], six["requests"], six["errors"]) == (6, 18, 0)
    assert six["tokens_per_second"] == pytest.approx(18 * 3 / six["seconds"])
    assert set(six["first_token_ms"]) == {"p50", "p95", "p99"}


def test_a_curve_by_hand() -> None:
    def record(began: float, ended: float, first: float | None, error: str | None = None) -> dict[str, Any]:
        metrics = {} if error else {"2_users_first_token_ms": first, "2_users_total_ms": (ended - began) * 1e3}
        return {
            **{"users": 2, "began_s": began, "ended_s": ended, "metrics": metrics, "error": error},
            "completion_tokens": None if error else 10,
        }

    records = {"a": record(0, 1, 100.0), "b": record(1, 4, 300.0), "c": record(0, 2, None), "d": record(2, 3, 0, "no")}
    (row,) = curve(records, (2,))
    assert (row["requests"], row["errors"], row["seconds"]) == (4, 1, 4.0)
    assert (row["requests_per_second"], row["tokens_per_second"]) == (0.75, 7.5)
    assert row["first_token_ms"] == {"p50": 100.0, "p95": 300.0, "p99": 300.0}
    assert row["total_ms"] == {"p50": 2000.0, "p95": 3000.0, "p99": 3000.0}


def test_failed_requests_are_counted_and_a_dead_engine_ends_it(tmp_path: Path) -> None:
    llm = ScriptedLLM()
    questions = tmp_path / "q.txt"
    questions.write_text("what are tides\nplease fail\n", encoding="utf-8")
    part = SpeedPart("serving", users=(2,), rounds=2, questions=questions)
    questions.write_text("please fail\nwhat are tides\n", encoding="utf-8")
    folder = PartFolder(tmp_path / "some")
    extras = part.prepare(tools(llm)).run(folder, quiet)
    assert extras["curve"][0]["errors"] == 2 and extras["curve"][0]["requests"] == 4
    failed = [record for record in folder.all().values() if record["error"]]
    assert failed[0]["error"] == "the engine is out of order" and failed[0]["metrics"] == {}
    questions.write_text("please fail\nfail again\n", encoding="utf-8")
    with pytest.raises(FathomError, match="out of order"):
        part.prepare(tools(llm)).run(PartFolder(tmp_path / "all"), quiet)


def test_an_interrupted_level_is_measured_again_as_a_whole(tmp_path: Path) -> None:
    from eval.speed.asking import of_engine

    llm = ScriptedLLM()
    ask = of_engine(llm, 8)
    folder = PartFolder(tmp_path)
    measure(ask, ["a", "b", "c"], folder, quiet, users=(1, 2), rounds=2)
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    before = len(llm._asked)
    measure(ask, ["a", "b", "c"], PartFolder(tmp_path), quiet, users=(1, 2), rounds=2)
    assert len(llm._asked) - before == 4  # the two users once more; the level of one user stays


def test_ctrl_c_stops_the_answers_that_are_being_written(tmp_path: Path) -> None:
    from eval.speed.asking import of_engine

    llm = ScriptedLLM(pause=30.0)

    def interrupted(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    def quick(question: str, stop: threading.Event) -> Any:
        if question == "slow":
            return of_engine(llm, 8)(question, stop)
        return of_engine(ScriptedLLM(), 8)(question, stop)

    with pytest.raises(KeyboardInterrupt):
        measure(quick, ["quick", "slow", "slow", "quick"], PartFolder(tmp_path), interrupted, users=(3,), rounds=1)
    end = time.monotonic() + 20
    while llm._running:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_serving_over_a_collection_searches_and_answers(tmp_path: Path, shelf: Any) -> None:
    llm = ScriptedLLM()
    part = SpeedPart("serving", collection="shelf", users=(2,), rounds=2, mode="lexical", k=3)
    folder, extras = run(part, tools(llm, shelf), tmp_path)
    assert extras["model"] == "scripted" and extras["curve"][0]["errors"] == 0
    prompts = [text for text in llm._asked if "Tides are caused by the moon" in text]
    assert prompts  # passages stood in them
    assert all(record["completion_tokens"] == 3 for record in folder.done().values() if record["completion_tokens"])


def test_search_has_the_milliseconds_of_every_stage(tmp_path: Path, shelf: Any) -> None:
    folder, extras = run(SpeedPart("search", collection="shelf", repeats=2), tools(shelf=shelf), tmp_path)
    texts = {record["text"] for record in folder.done().values()}
    assert "Tides are caused by the moon." in texts and "绿茶不经过发酵。" in texts  # the documents' own sentences
    record = folder.done()["1"]
    assert {"search_ms", "search_cpu_ms"} == set(record["metrics"])
    assert {"embed", "dense", "lexical", "search"} <= set(record["timings"])
    assert extras["questions"] == 5 and set(extras["search_ms"]) == {"p50", "p95", "p99"}
    data = SpeedPart("search", collection="shelf").prepare(tools(shelf=shelf)).data
    shelf.remove(["tides.txt"])
    assert SpeedPart("search", collection="shelf").prepare(tools(shelf=shelf)).data != data


def test_indexing_counts_passages_of_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    for document in five_documents():
        (source / document.uri).write_text(document.text, encoding="utf-8")
    folder, extras = run(SpeedPart("indexing", folder=source, repeats=2), tools(), tmp_path / "part")
    record = folder.done()["2"]
    assert record["metrics"]["passages_per_second"][0] == record["passages"] == 5
    assert record["metrics"]["cpu_per_passage_ms"][1] == 5 and record["metrics"]["indexing_cpu_s"] > 0
    assert extras["files"] == 5 and extras["backend"] == "hashing"
    assert sorted(path.name for path in source.iterdir()) == sorted(document.uri for document in five_documents())


def test_wrong_settings_are_found_before_any_work(tmp_path: Path, shelf: Any) -> None:
    at_hand = tools(ScriptedLLM(), shelf)
    (tmp_path / "empty").mkdir()
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Zoë".encode("latin-1"))
    long = tmp_path / "long.txt"
    long.write_text("fine\n" + "x" * 3000, encoding="utf-8")
    blank = tmp_path / "blank.txt"
    blank.write_text("\n\n", encoding="utf-8")
    wrong: list[tuple[dict[str, Any], type[FathomError], str]] = [
        ({"what": "flying"}, UsageError, "known are indexing, search"),
        ({"what": "search"}, UsageError, "to measure search, give collection"),
        ({"what": "indexing"}, UsageError, "give folder"),
        ({"what": "indexing", "folder": tmp_path / "nowhere"}, UsageError, "is not a folder"),
        ({"what": "indexing", "folder": tmp_path / "empty"}, UsageError, "has no files"),
        ({"what": "beside", "ours": "python -c pass"}, UsageError, "give peer"),
        ({"what": "serving", "users": ()}, UsageError, "users are numbers"),
        ({"what": "serving", "users": (0,)}, UsageError, "users are numbers"),
        ({"what": "serving", "users": (2, 2)}, UsageError, "given twice"),
        ({"what": "serving", "rounds": 0}, UsageError, "rounds is at least 1"),
        ({"what": "serving", "prompt_tokens": (5,)}, UsageError, "40 tokens or more"),
        ({"what": "serving", "questions": latin}, ReadingError, "not UTF-8"),
        ({"what": "serving", "questions": long}, ReadingError, "line 2"),
        ({"what": "serving", "questions": blank}, UsageError, "has no questions"),
        ({"what": "serving", "questions": tmp_path / "absent.txt"}, ReadingError, "cannot be read"),
        ({"what": "beside", "timeout": float("nan")}, UsageError, "timeout"),
    ]
    for fields, kind, words in wrong:
        with pytest.raises(kind, match=words):
            SpeedPart(**fields).prepare(at_hand)

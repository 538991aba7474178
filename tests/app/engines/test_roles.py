"""Several LoRA adapters by role on one base: each writes and weighs as it does alone, whatever was asked before."""

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from made_exports import made_adapter
from tiny_models import byte_tokenizer, llama, save

from adapt.export.openvino_folder import export_openvino
from app.api.decoding import with_options
from app.engines import loading
from app.engines.embedded import EmbeddedModel, load_embedded, open_embedded
from app.engines.isolated import IsolatedLLM, load_isolated
from app.engines.local import LocalModel, open_local
from app.engines.speaker import Manners, Speaker
from retrieval.errors import FathomError, UsageError

PROMPTS = ("the cat sat", "水温", "dog sat on")
PLAIN = Manners(max_new_tokens=8, repetition_penalty=1.0)
ROLES: dict[str, dict[str, Any]] = {
    "rewriter": {"r": 4, "lora_alpha": 64},
    "answerer": {"r": 2, "lora_alpha": 80, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "reranker": {"r": 4, "lora_alpha": 90, "use_rslora": True},
}
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """One tiny model for transformers ("tiny"), exported ("openvino"), and an adapter for each role."""
    place = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    tiny = save(place / "tiny", llama(tokenizer), tokenizer)
    export_openvino(tiny, place / "openvino", cache=place, halves=False)
    made = {role: made_adapter(tiny, place / role, seed=n, **more) for n, (role, more) in enumerate(ROLES.items())}
    return {"tiny": tiny, "openvino": place / "openvino"} | made


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights go another way after a few tokens in bf16, or with keys and values in 8 bits as they come."""
    fp32 = partial(loading._pipeline, INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    monkeypatch.setattr(loading, "_pipeline", fp32)


def texts(speaker: Speaker, role: str | None = None) -> list[str]:
    """What it writes, without the half characters that random weights love."""
    return [
        "".join(piece.text for piece in speaker.pieces(prompt, {"role": role})).rstrip("\ufffd") for prompt in PROMPTS
    ]


def alone(models: Folders, role: str | None) -> Speaker:
    """The base of transformers with this adapter of peft and no other."""
    return open_local(LocalModel(str(models["tiny"]), adapter=models[role] if role else None, device="cpu"), PLAIN)


def test_each_role_writes_and_weighs_as_its_adapter_does_alone(models: Folders, exact: None) -> None:
    adapters = {role: models[role] for role in ROLES}
    engines = [
        open_embedded(EmbeddedModel(models["openvino"], adapters=adapters), PLAIN),
        open_local(LocalModel(str(models["tiny"]), adapters=adapters, device="cpu"), PLAIN),
    ]
    # One token each, then several: the likeliest of 16, any other, and sequences.
    choices = ["a", "z", " mat and", "绿茶"]
    wanted = {
        role: (texts(one := alone(models, role)), one.choice_logprobs(PROMPTS, choices)) for role in [None, *ROLES]
    }
    assert len({tuple(written) for written, _ in wanted.values()}) == 4
    for engine in engines:
        assert engine.roles == tuple(ROLES)
        for role in (None, *ROLES, "rewriter", None, "reranker"):
            written, weighed = wanted[role]
            assert texts(engine, role) == written, (engine, role)
            for row, true in zip(engine.choice_logprobs(PROMPTS, choices, role=role), weighed, strict=True):
                assert row == pytest.approx(true, abs=2e-3), (engine, role)
        unknown = "no adapter 'judge' on .*it has rewriter, answerer, reranker"
        with pytest.raises(UsageError, match=unknown):
            texts(engine, "judge")
        with pytest.raises(UsageError, match=unknown):
            engine.choice_logprobs(PROMPTS, choices, role="judge")


def test_an_embedded_engine_without_adapters_weighs_as_transformers_does(models: Folders, exact: None) -> None:
    engine, true = open_embedded(EmbeddedModel(models["openvino"]), PLAIN), alone(models, None)
    assert engine.roles == ()
    choices = [chr(code) for code in range(ord("a"), ord("a") + 20)] + ["</s>"]
    for row, wanted in zip(
        engine.choice_logprobs(PROMPTS, choices), true.choice_logprobs(PROMPTS, choices), strict=True
    ):
        assert row == pytest.approx(wanted, abs=2e-3)
    talk = [[{"role": "user", "content": "the cat"}], "<s>the cat</s>"]
    chat, plain = engine.choice_logprobs(talk, ["a", "b"])
    assert chat == plain == pytest.approx(true.choice_logprobs(talk, ["a", "b"])[0], abs=2e-3)
    assert engine.choice_logprobs([], ["a"]) == []
    for prompts, words in (([""], ["a"]), (["a"], []), (["a"], ["b", ""]), (["the cat sat on " * 20], ["a"])):
        with pytest.raises(UsageError, match="choices to weigh|1 to 47 tokens"):
            engine.choice_logprobs(prompts, words)


def test_an_adapter_of_another_base_is_refused_for_a_role(models: Folders, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    other = made_adapter(save(tmp_path / "twin", llama(tokenizer, seed=1), tokenizer), tmp_path / "other")
    adapters = {"rewriter": models["rewriter"], "answerer": other}
    with pytest.raises(UsageError, match="'other' was trained on 'twin' .* 'openvino' has other weights"):
        load_embedded(models["openvino"], adapters=adapters)
    with pytest.raises(UsageError, match="'other' was trained on 'twin' .* 'tiny' has other weights"):
        open_local(LocalModel(str(models["tiny"]), adapters=adapters, device="cpu"), PLAIN)
    twice = {"adapter": models["rewriter"], "adapters": adapters}
    with pytest.raises(UsageError, match="exclude each other"):
        load_embedded(models["openvino"], **twice)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="exclude each other"):
        open_local(LocalModel(str(models["tiny"]), **twice), PLAIN)  # type: ignore[arg-type]
    copy = shutil.copytree(models["rewriter"], tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(UsageError, match="is no LoRA, and no other kind can be one of several"):
        open_local(LocalModel(str(models["tiny"]), adapters={"a": copy}, device="cpu"), PLAIN)


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


@pytest.fixture(scope="module", params=["embedded", "local"])
def llm(
    request: pytest.FixtureRequest, models: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IsolatedLLM]:
    adapters = {role: models[role] for role in ROLES}
    chosen: Any = (
        EmbeddedModel(models["openvino"], adapters=adapters)
        if request.param == "embedded"
        else LocalModel(str(models["tiny"]), adapters=adapters, device="cpu")
    )
    log = tmp_path_factory.mktemp("log") / "engine.log"
    engine = load_isolated(request.param, chosen, manners=PLAIN, log=log)
    yield engine
    engine.close()


def test_a_role_of_an_engine_is_an_llm_of_its_own(llm: IsolatedLLM) -> None:
    assert llm.roles == tuple(ROLES)
    with pytest.raises(UsageError, match="no adapter 'judge' on .*it has rewriter, answerer, reranker"):
        llm.under("judge")
    views = [llm.under(role) for role in llm.roles]
    said = {view.metadata.model_name: str(view.chat(user("the cat sat on")).message.content) for view in views}
    base = str(llm.chat(user("the cat sat on")).message.content)
    assert sorted(said) == [f"{llm.model_name} + {role}" for role in sorted(llm.roles)]
    assert len({base, *said.values()}) == 4
    for view in views:
        again = "".join(piece.delta or "" for piece in view.stream_chat(user("the cat sat on")))
        assert again == said[view.model_name]
        assert view.choice_logprobs([user("the cat")], ["a"]) != llm.choice_logprobs([user("the cat")], ["a"])
        assert view.count_tokens("the cat") == llm.count_tokens("the cat") > 0
        assert view.under("answerer").model_name == views[1].model_name
    stop = threading.Event()
    stop.set()
    with pytest.raises(FathomError, match="was stopped"):
        views[0].choice_logprobs(["the cat"], ["a"], stop=stop)
    views[0].close()
    del views
    assert str(llm.chat(user("the cat sat on")).message.content) == base


def test_an_engine_with_the_options_of_a_request_keeps_them_under_its_roles(llm: IsolatedLLM) -> None:
    short = with_options(llm, {"max_new_tokens": 3, "temperature": 1.5, "top_p": 0.9, "seed": 5})
    for one in (short, short.under("rewriter")):
        said = one.chat(user("the cat sat on"))
        assert 0 < said.raw["completion_tokens"] <= 3
    assert (short.temperature, short.top_p, short.under("answerer").seed) == (1.5, 0.9, 5)  # type: ignore[attr-defined]
    assert with_options(llm, {"max_new_tokens": 999}).max_new_tokens == PLAIN.max_new_tokens  # type: ignore[attr-defined]
    drawn = {str(llm.chat(user("the cat"), temperature=1.5, seed=seed).message.content) for seed in range(5)}
    again = with_options(llm, {"temperature": 1.5, "seed": 4}).chat(user("the cat"))
    assert len(drawn) > 1 and str(again.message.content) in drawn
    assert llm.chat(user("the cat sat on")).raw["completion_tokens"] > 3


def test_every_role_answers_at_the_same_time_as_others_and_as_it_does_alone(llm: IsolatedLLM, models: Folders) -> None:
    """Interleaved on one thread, then from three threads and the base's at once, over one process."""
    ones = {None: llm} | {role: llm.under(role) for role in llm.roles}
    wanted = {role: [str(one.chat(user(text)).message.content) for text in PROMPTS] for role, one in ones.items()}
    assert len({tuple(texts) for texts in wanted.values()}) == 4
    pid = llm.pid
    for number, text in enumerate(PROMPTS):
        for role, one in ones.items():
            assert str(one.chat(user(text)).message.content) == wanted[role][number], role
    said: dict[str | None, list[str]] = {role: [] for role in ones}
    ready = threading.Barrier(len(ones))

    def ask(role: str | None) -> None:
        ready.wait()
        for text in PROMPTS * 2:
            said[role].append("".join(piece.delta or "" for piece in ones[role].stream_chat(user(text))))
            ones[role].choice_logprobs([user(text)], ["a"])

    threads = [threading.Thread(target=ask, args=(role,)) for role in ones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {role: texts * 2 for role, texts in wanted.items()}
    assert llm.pid == pid, "it crashed and was started anew"


def test_a_role_outlives_the_name_of_its_engine_and_ends_with_it(models: Folders) -> None:
    whole = load_isolated("embedded", EmbeddedModel(models["openvino"], adapters={"rewriter": models["rewriter"]}))
    view, keeper = whole.under("rewriter"), whole._keeper
    del whole
    assert view.chat(user("the cat"), max_new_tokens=2).raw["completion_tokens"] > 0
    assert view._origin is not None
    view._origin.close()
    with pytest.raises(FathomError, match="was closed"):
        view.chat(user("the cat"))
    keeper.close()

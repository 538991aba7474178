"""`fathom serve-model` on a real vLLM: a base with domain tokens and two adapters by name, a merged QLoRA, the chat."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from domain_words import Domain
from llama_index.core.base.llms.types import ChatMessage
from made_exports import greedy, made_adapter, made_model, tokenizer_of

from adapt.adapters import register_adapter
from adapt.export.hf_folder import merge
from adapt.recipe import Vocabulary, Warming
from adapt.registry import register
from adapt.serving_limits import refused_folder
from adapt.vocabulary import extending
from app.engines.server import load_server
from eval.baselines.install import baseline_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Fathom = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Vocabulary(tokens=40, least_saving=0.0, warm=Warming(tokens=1000, lr=1e-2), block=32, batch_tokens=256)
FLAGS = ("--", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4", "--max-model-len", "4096")
PROMPTS = ("the cat sat on the", "the klystron of the waveguide", "绿茶不经过")
COUNT = 8


@dataclass
class Served:
    """Folders of models and adapters by name, and the two servers: of the domain model, of the merged one."""

    workspace: Path
    folders: dict[str, Path]
    domain: str = ""
    merged: str = ""
    pids: tuple[int, ...] = ()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def made(place: Path) -> Served:
    """A model with domain tokens as the stage "vocabulary" leaves it, three adapters on it, one of them merged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extending, "STRANGE", 100)
        start = made_model(place / "start", "llama", tokenizer_of("smollm"), max_position_embeddings=4096)
        domain = extending.extend(start, Domain(), SETTINGS, folder=place / "run", seed=1, progress=lambda *_: None)
    workspace, models = place / "w", place / "w" / "models"
    register(models, "domain", domain, {"base": {"name": "start"}})
    folders = {"start": start, "domain": domain}
    for number, name in enumerate(("legal", "medical", "qlora")):
        folders[name] = made_adapter(
            domain, place / name, r=(4, 12, 8)[number], seed=number, use_rslora=name == "medical"
        )
        held = "nf4" if name == "qlora" else None
        register_adapter(models, name, folders[name], base="domain", held=held, manifest={})
    (place / "merged").mkdir()
    merge(domain, folders["qlora"], place / "merged", held="nf4", cache=place / "cache")
    register(models, "merged", place / "merged", {"base": {"name": "domain"}})
    for name, more in (
        ("dora", {"use_dora": True}),
        ("bias", {"bias": "lora_only"}),
        ("pissa", {"init_lora_weights": "pissa"}),
        ("rows", {"trainable_token_indices": {"embed_tokens": [5, 6]}}),
        ("whole", {"modules_to_save": ["lm_head"]}),
    ):
        folders[name] = made_adapter(domain, place / name, facts=False, **more)
    return Served(workspace, folders | {"merged": place / "merged"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Both servers at once: a start is nearly all imports, 45 seconds each."""
    venv = ROOT / baseline_python(name="vllm").parents[1]
    if not (venv / "bin" / "python").exists():
        pytest.skip("needs build/vllm-venv: python -m eval.baselines.install vllm")
    found = made(tmp_path_factory.mktemp("served"))
    started: list[subprocess.Popen[str]] = []
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    try:
        for words in (("domain", "--adapters", "legal,medical"), ("merged",)):
            started.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "app", "serve-model", *words, "--port", str(free_port()), "--json"),
                        *("--vllm", str(venv), "--workspace", str(found.workspace), *FLAGS),
                    ],
                    cwd=ROOT,
                    env={**os.environ, **variables, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        said = [first_json(process) for process in started]
        found.domain, found.merged = said[0]["url"], said[1]["url"]
        found.pids = tuple(one["pid"] for one in said)
        assert said[0]["models"] == ["domain", "legal", "medical"]
        yield found
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.communicate(timeout=60)
    assert all(process.returncode == 130 for process in started)
    # The server's group: itself, its engine, its workers.
    assert not any(in_group(pid) for pid in found.pids)


def in_group(group: int) -> list[str]:
    """Processes of a group that still run; those that only wait to be counted (Z) do not."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(of) == group and state not in "ZX":
            found.append(file.parent.name)
    return found


def first_json(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What the command says when the server answers; its errors where it never does."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return dict(json.loads(text))
    raise AssertionError(process.communicate())


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def written_by_vllm(url: str, model: str, ids: list[int]) -> list[int]:
    body = {"model": model, "prompt": ids, "max_tokens": COUNT, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    status, said = post(f"{url}/completions", body | {"return_tokens_as_token_ids": True})
    assert status == 200, said
    return [int(word.removeprefix("token_id:")) for word in json.loads(said)["choices"][0]["logprobs"]["tokens"]]


def loaded(folder: Path, adapter: Path | None = None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).eval()


def tokenizer_in(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_base_with_domain_tokens_and_each_adapter_write_what_peft_writes(served: Served) -> None:
    folders = served.folders
    tokenizer = tokenizer_in(folders["domain"])
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    assert len(tokenizer) > len(tokenizer_in(folders["start"]))
    assert any(number >= len(tokenizer_in(folders["start"])) for ids in prompts for number in ids), "a domain token"
    texts = {}
    for name, adapter in (("domain", None), ("legal", folders["legal"]), ("medical", folders["medical"])):
        model = loaded(folders["domain"], adapter)
        texts[name] = [written_by_vllm(served.domain, name, ids) for ids in prompts]
        assert texts[name] == [greedy(model, ids, COUNT) for ids in prompts], name
    assert texts["domain"] != texts["legal"] != texts["medical"] != texts["domain"]


def test_a_merged_qlora_writes_what_it_wrote_on_four_bits(served: Served) -> None:
    from peft import PeftModel

    from eval.models.language_models import load_parts, locate

    base, _, _ = load_parts(locate(str(served.folders["domain"])), cache=served.workspace / "c", precision="nf4")
    model = PeftModel.from_pretrained(base.dequantize().float(), str(served.folders["qlora"])).eval()
    tokenizer = tokenizer_in(served.folders["domain"])
    for text in PROMPTS:
        ids = tokenizer(text)["input_ids"]
        assert written_by_vllm(served.merged, "merged", ids) == greedy(model, ids, COUNT), text


def test_vllm_refuses_what_is_refused_here_and_nothing_else(served: Served) -> None:
    for name, refused in (
        ("qlora", False),
        ("dora", True),
        ("bias", True),
        ("pissa", True),
        ("rows", True),
        ("whole", True),
    ):
        folder = served.folders[name]
        status, said = post(
            f"{served.domain}/load_lora_adapter", {"lora_name": f"try-{name}", "lora_path": str(folder)}
        )
        assert (status != 200) == refused, (name, status, said)
        assert bool(refused_folder(folder)) == refused, name


def test_the_chat_template_is_the_trained_one_and_an_adapter_answers_the_server_engine(served: Served) -> None:
    tokenizer = tokenizer_in(served.folders["domain"])
    messages = [{"role": "user", "content": "the cat sat"}]
    ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    model = loaded(served.folders["domain"], served.folders["legal"])
    wanted = tokenizer.decode(greedy(model, ids, COUNT), skip_special_tokens=True)
    llm = load_server(served.domain, model="legal", max_new_tokens=COUNT, repetition_penalty=1.0)
    answer = llm.chat([ChatMessage(role="user", content="the cat sat")]).message.content
    assert answer and wanted.startswith(answer.rstrip("\ufffd")) and len(answer) >= 2


def test_a_question_is_answered_by_a_served_adapter(
    served: Served, fathom: Fathom, tmp_path: Path, hashing_embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FATHOM_ANSWER_LEAST_CONFIDENCE", "0.02")
    monkeypatch.setenv("FATHOM_ENGINE_MAX_NEW_TOKENS", "8")
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "tides.txt").write_text("Tides\n\nTides are caused by the moon.\n")
    fathom("index", "sync", str(tmp_path / "shelf"))
    monkeypatch.setenv("FATHOM_ENGINE_URL", served.domain)
    answer = json.loads(fathom("ask", "What causes tides?", "--model", "legal", "--json").stdout)
    assert answer["model"].startswith("legal") and answer["timings"]["completion_tokens"] > 0

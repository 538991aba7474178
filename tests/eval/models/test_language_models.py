"""Models are loaded without running their code, and tell the log-probabilities that their own logits say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import WINDOW, byte_tokenizer, llama, plain_logprobs, save, sizes, word_tokenizer

from eval.models.language_models import load_language_model, locate
from eval.models.likelihood import TransformersModel, batches
from retrieval.errors import DamagedError, MissingError, UsageError

SEED = np.random.default_rng(7)
SEQUENCES = [SEED.integers(2, 290, size=size).tolist() for size in (5, WINDOW, 30, 1, 17, 2, 30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_tokenizer()
    return save(tmp_path_factory.mktemp("models") / "tiny", llama(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(folder: Path, cache: Path) -> TransformersModel:
    return load_language_model(str(folder), cache=cache)


def test_a_padded_batch_tells_what_each_sequence_alone_does(model: TransformersModel) -> None:
    for ids, found in zip(SEQUENCES, model.logprobs(SEQUENCES), strict=True):
        assert len(found) == len(ids) and np.isnan(found[0])
        np.testing.assert_allclose(found[1:], plain_logprobs(model._model, ids), atol=1e-4)


def test_small_groups_and_small_slices_of_the_vocabulary_change_nothing(folder: Path, cache: Path) -> None:
    small = load_language_model(str(folder), cache=cache)
    whole = small.logprobs(SEQUENCES)
    small.batch_tokens, small._logits_at_once = 40, 1000
    for one, other in zip(whole, small.logprobs(SEQUENCES), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_only_what_is_asked_for_is_told(model: TransformersModel) -> None:
    since = [3, 40, 0, 1, 17, 1, 29]
    whole, part = model.logprobs(SEQUENCES), model.logprobs(SEQUENCES, since=since)
    for start, one, other in zip(since, whole, part, strict=True):
        assert np.isnan(other[: max(1, start)]).all()
        np.testing.assert_allclose(one[max(1, start) :], other[max(1, start) :], atol=1e-5)


@pytest.mark.parametrize("since", [None, [30, 30, 30, 25], [5, 5, 29, 5]])
def test_sequences_that_begin_alike_may_share_the_beginning(
    model: TransformersModel, since: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = SEQUENCES[2]
    branches = [stem + [11, 12, 13], stem + [4], stem + [11, 5, 6, 7, 8], stem[:25] + [9, 9, 9]]
    expected = model.logprobs(branches, since=since)
    # The long way is shut, so that the short one must have been taken.
    monkeypatch.setattr(model, "logprobs", None)
    for one, other in zip(expected, model.branches(branches, since=since), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_prompts_begin_with_goes_through_the_model_once(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = SEQUENCES[2]
    prompts = [stem + [11, 12, 13], stem + [4], stem + [11, 5, 6, 7, 8], stem + [9] * 9]
    targets = [7, 8, 200]
    read: list[int] = []
    hidden = model._hidden

    def counted(**inputs: Any) -> Any:
        read.append(inputs["input_ids"].numel())
        return hidden(**inputs)

    monkeypatch.setattr(model, "_hidden", counted)
    found = model.next_logprobs(prompts, targets)
    assert sum(read) == len(stem) + 4 * 9  # the beginning, and four ends padded to the longest
    monkeypatch.setattr(model, "batch_tokens", 50)  # each on its own copy
    np.testing.assert_allclose(model.next_logprobs(prompts, targets), found, atol=1e-4)
    monkeypatch.setattr(model, "_can_branch", False)  # the plain way
    np.testing.assert_allclose(model.next_logprobs(prompts, targets), found, atol=1e-4)
    for ids, row in zip(prompts, found, strict=True):
        alone = [plain_logprobs(model._model, [*ids, target])[-1] for target in targets]
        np.testing.assert_allclose(row, alone, atol=1e-4)


def test_sequences_with_little_in_common_take_the_long_way(model: TransformersModel) -> None:
    for one, other in zip(model.logprobs(SEQUENCES), model.branches(SEQUENCES), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_groups_are_by_length_and_within_the_budget() -> None:
    groups = batches([5, 100, 7, 6, 300], 20)
    assert groups == [[4], [1], [2, 3], [0]]  # 2 × 7 tokens fit into 20, 3 × 7 do not
    assert batches([], 20) == []


def _gemma(tokenizer: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**sizes(tokenizer), head_dim=8, final_logit_softcapping=1.5))


def _granite(tokenizer: Any) -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**sizes(tokenizer), logits_scaling=4.0))


def _cohere(tokenizer: Any) -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**sizes(tokenizer), logit_scale=0.25))


def _gpt2(tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=WINDOW, n_embd=32, n_layer=2, n_head=4))


@pytest.mark.parametrize("make", [_gemma, _granite, _cohere, _gpt2])
def test_what_a_model_does_after_its_head_is_done_too(make: Callable[[Any], Any], tmp_path: Path) -> None:
    """Gemma caps its logits, Granite divides and Cohere multiplies them: 1.0 bit per byte more or less if forgotten."""
    import torch

    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    made = make(tokenizer).eval()
    loaded = load_language_model(str(save(tmp_path / "model", made, tokenizer)), cache=tmp_path)
    assert loaded._finish is not None and loaded._can_branch  # the quick ways, which must be found out
    for ids, found in zip(SEQUENCES, loaded.logprobs(SEQUENCES), strict=True):
        np.testing.assert_allclose(found[1:], plain_logprobs(made, ids), atol=1e-4)
    stem = SEQUENCES[2]
    for one, other in zip(
        loaded.logprobs([[*stem, 9, 8], [*stem, 7]]), loaded.branches([[*stem, 9, 8], [*stem, 7]]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_unknown_head_falls_back_on_the_models_own_logits(model: TransformersModel) -> None:
    finish, model._finish = model._finish, None
    try:
        found = model.logprobs(SEQUENCES, since=[2] * len(SEQUENCES))
    finally:
        model._finish = finish
    for one, other in zip(model.logprobs(SEQUENCES, since=[2] * len(SEQUENCES)), found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_text_is_never_read_as_a_special_token(model: TransformersModel) -> None:
    text = "the cat </s> 绿茶 <s>"
    read = model.encoding(text)
    assert read.exact and not {0, 1} & set(read.ids.tolist())
    assert read.ids.tolist() == model.encode(text)
    assert read.starts[0] == 0 and (np.diff(read.starts) >= 0).all() and read.starts[-1] < len(text)


def test_what_a_vocabulary_lacks_is_seen(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    loaded = load_language_model(str(save(tmp_path / "words", llama(tokenizer), tokenizer)), cache=tmp_path)
    read = loaded.encoding("the cat sat on 绿茶 .")
    assert read.unknown.tolist() == [False, False, False, False, True, False]
    assert not read.exact


def test_whether_the_tokenizer_opens_a_text_is_known(model: TransformersModel, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(opens=True)
    loaded = load_language_model(str(save(tmp_path / "opens", llama(tokenizer), tokenizer)), cache=tmp_path)
    assert (loaded.opens, loaded.bos) == (True, 0)
    assert (model.opens, model.bos, model.window) == (False, 0, WINDOW)
    assert model.facts == {"precision": "fp32", "device": "cpu", "before_first_token": "<s>"}


# --- what must not be loaded ------------------------------------------------------------------------------------------


def _copied(folder: Path, to: Path, *without: str) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*without))
    return to


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = _copied(folder, tmp_path / "pickled", "*.safetensors")
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(MissingError, match=r"no weights as safetensors.*pytorch_model\.bin.*may run code"):
        load_language_model(str(broken))
    with pytest.raises(UsageError, match="never loaded"):
        load_language_model(str(broken / "pytorch_model.bin"))


def test_a_folder_without_a_tokenizer_or_a_model_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no tokenizer"):
        locate(str(_copied(folder, tmp_path / "mute", "tokenizer*")))
    with pytest.raises(MissingError, match=r"no config\.json"):
        locate(str(tmp_path))
    with pytest.raises(MissingError, match="there is no model 'gone.gguf'"):
        locate("gone.gguf")


def test_a_name_of_the_hub_that_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match="hf download nobody/no-such-model"):
        locate("nobody/no-such-model")


def test_a_model_with_code_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = _copied(folder, tmp_path / "code")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "x.Y"}}))
    with pytest.raises(UsageError, match="brings its own code"):
        load_language_model(str(broken))


def test_damaged_weights_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    broken = _copied(folder, tmp_path / "damaged")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(DamagedError, match="cannot be loaded"):
        load_language_model(str(broken), cache=tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(DamagedError, match="cannot be loaded"):
        load_language_model(str(tmp_path / "bad.gguf"), cache=tmp_path)
    (tmp_path / "no.gguf").write_bytes(b"hello")
    with pytest.raises(DamagedError, match="does not begin"):
        locate(str(tmp_path / "no.gguf"))


def test_a_tokenizer_of_another_model_is_found_out(folder: Path, tmp_path: Path) -> None:
    small = save(tmp_path / "small", llama(word_tokenizer()), byte_tokenizer())
    with pytest.raises(DamagedError, match="do not belong together"):
        load_language_model(str(small), cache=tmp_path)


@pytest.mark.parametrize(("head", "error", "said"), [(False, DamagedError, "lacks"), (True, UsageError, "looks at")])
def test_an_encoder_is_no_language_model(head: bool, error: type[Exception], said: str, tmp_path: Path) -> None:
    """transformers opens both without a word: one gets random weights for a head, one sees what it is to tell."""
    from transformers import BertConfig, BertLMHeadModel, BertModel

    tokenizer = byte_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.3,
    )
    made = BertLMHeadModel(config) if head else BertModel(config)
    with pytest.raises(error, match=said):
        load_language_model(str(save(tmp_path / "bert", made, tokenizer)), cache=tmp_path)


def test_weights_that_are_not_numbers_are_found_out(tmp_path: Path) -> None:
    import torch

    tokenizer = byte_tokenizer()
    made = llama(tokenizer)
    with torch.no_grad():
        made.model.norm.weight[0] = float("nan")
    with pytest.raises(DamagedError, match="no finite probabilities"):
        load_language_model(str(save(tmp_path / "nan", made, tokenizer)), cache=tmp_path)


@pytest.mark.parametrize("options", [{"device": "gpu"}, {"precision": "int3"}])
def test_a_wrong_word_is_refused(folder: Path, cache: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="|".join(options.values())):
        load_language_model(str(folder), cache=cache, **options)


# --- adapters ---------------------------------------------------------------------------------------------------------


def _adapter(folder: Path, to: Path, config: Any, *, scale: float = 0.1, tokenizer: Any = None) -> Path:
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(folder))
    if tokenizer is not None:
        base.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(base, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight += scale * torch.randn_like(weight)
    adapted.save_pretrained(to)
    if tokenizer is not None:
        tokenizer.save_pretrained(to)
    return to


def test_an_adapter_changes_the_figures_and_the_hash(
    folder: Path, cache: Path, model: TransformersModel, tmp_path: Path
) -> None:
    from peft import LoraConfig

    adapter = _adapter(folder, tmp_path / "lora", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    adapted = load_language_model(str(folder), adapter=adapter, cache=cache)
    assert adapted.name == "tiny + lora" and adapted.hash != model.hash
    ids = SEQUENCES[2]
    found = adapted.logprobs([ids])[0]
    np.testing.assert_allclose(found[1:], plain_logprobs(adapted._model, ids), atol=1e-4)
    assert np.abs(found[1:] - model.logprobs([ids])[0][1:]).max() > 0.01
    with pytest.raises(UsageError, match="with --adapter"):
        locate(str(adapter))


def test_virtual_tokens_take_their_place_in_the_window(folder: Path, cache: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8)
    adapter = _adapter(folder, tmp_path / "prompt", config, scale=1.0)
    adapted = load_language_model(str(folder), adapter=adapter, cache=cache)
    assert adapted.window == WINDOW - 8
    ids = SEQUENCES[2]
    np.testing.assert_allclose(
        adapted.logprobs([ids, ids[:20]])[0][1:], plain_logprobs_behind(adapted._model, ids, 8), atol=1e-4
    )


def plain_logprobs_behind(model: Any, ids: list[int], virtual: int) -> list[float]:
    """As `plain_logprobs`, with so many virtual tokens in front of what is told."""
    import torch

    with torch.no_grad():
        told = model(input_ids=torch.tensor([ids])).logits[0, virtual:].float().log_softmax(-1)
    return [float(told[place - 1, ids[place]]) for place in range(1, len(ids))]


def test_an_adapter_with_new_words_makes_room_for_them(folder: Path, cache: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["turbocharger", "涡轮增压器"])
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapter = _adapter(folder, tmp_path / "words", config, tokenizer=tokenizer)
    adapted = load_language_model(str(folder), adapter=adapter, cache=cache)
    ids = [0, *adapted.encode("the turbocharger 涡轮增压器")]
    assert max(ids) == len(tokenizer) - 1
    np.testing.assert_allclose(adapted.logprobs([ids])[0][1:], plain_logprobs(adapted._model, ids), atol=1e-4)


def test_an_adapter_that_could_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    adapter = _adapter(folder, tmp_path / "lora", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"megatron_config": {"a": 1}}))
    with pytest.raises(UsageError, match="other modules"):
        locate(str(folder), adapter)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(DamagedError, match="is no adapter's"):
        locate(str(folder), adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(MissingError, match=r"only adapter_model\.bin, which may run code"):
        locate(str(folder), adapter)
    with pytest.raises(MissingError, match="is no adapter"):
        locate(str(folder), folder)


# --- the packaged model -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_packaged_gguf_tells_what_it_does_token_by_token(packaged_cache: Path) -> None:
    """Bits per byte equal to a plain loop, one token at a time, to 1e-4; and the unpacked copy is the file itself."""
    import torch

    loaded = load_language_model(cache=packaged_cache)
    assert loaded.name == "SmolLM2-135M-Instruct" and loaded.window == 8192
    text = "A heat pump moves heat from a cold place to a warm one. 热泵把热量从低温处移到高温处。"
    assert loaded.bos is not None
    ids = [loaded.bos, *loaded.encode(text)]
    state, plain = None, 0.0
    with torch.inference_mode():
        for place in range(len(ids) - 1):
            output = loaded._model(input_ids=torch.tensor([ids[place : place + 1]]), past_key_values=state)
            state = output.past_key_values
            plain -= float(output.logits[0, -1].log_softmax(-1)[ids[place + 1]])
    size = len(text.encode()) * np.log(2)
    assert -loaded.logprobs([ids])[0][1:].sum(dtype=np.float64) / size == pytest.approx(plain / size, abs=1e-4)
    assert 0.5 < plain / size < 3
    again = load_language_model(cache=packaged_cache)
    np.testing.assert_array_equal(again.logprobs([ids])[0], loaded.logprobs([ids])[0])
    assert again.hash == loaded.hash

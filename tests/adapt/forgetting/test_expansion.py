"""New layers begin as nothing at all, learn, are saved and loaded, and taken out leave the old model to the bit."""

import copy

import pytest
import torch
from tiny_texts import counting, learn, loss_of, tiny_llama

from adapt.forgetting.expansion import expand, new_layers, shrink, train_only
from retrieval.errors import UsageError

torch.set_num_threads(1)
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS = {
    "llama": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "qwen2": ("Qwen2", {**MIXED, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {}),
    "qwen3 experts": ("Qwen3Moe", EXPERTS),
    "qwen3 experts in some": ("Qwen3Moe", {**EXPERTS, "mlp_only_layers": [0, 2]}),
    "gemma2": ("Gemma2", MIXED),
    "gemma3": ("Gemma3", MIXED),
    "olmo2": ("Olmo2", {}),
    "glm4": ("Glm4", {}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1, 0]}),
    "granite": ("Granite", {"residual_multiplier": 0.3}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "gpt-neox": ("GPTNeoX", {}),
    "cohere": ("Cohere", {}),
    "gpt2": ("GPT2", {}),
}


def made(kind):
    import transformers

    name, options = KINDS[kind]
    config_class = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_class(**{**SIZES, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms too, which begin as ones or zeros
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def text(length=24):
    return (torch.arange(length) * 5 + 1)[None] % 61


def logits(model):
    with torch.no_grad():
        return model(text()).logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_old_model_and_is_saved_loaded_trained_and_taken_out(kind, tmp_path):
    import transformers

    model = made(kind)
    before, old = logits(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        greedy = model.generate(text(6), max_new_tokens=8, do_sample=False)
    assert expand(model, 2, "spread") == [2, 5]
    assert torch.equal(logits(model), before)
    assert model.config.num_hidden_layers == 6
    assert torch.equal(model.generate(text(6), max_new_tokens=8, do_sample=False), greedy)

    trained = train_only(model, [2, 5])
    assert 0 < trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    learn(model, counting(1), steps=3)
    model.eval()
    assert not torch.equal(logits(model), before)
    assert (logits(model) - before).abs().max() < 3.0, "three small steps must not throw the model over"

    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    with_cache, without = (
        again.generate(text(6), max_new_tokens=12, do_sample=False, use_cache=cache) for cache in (True, False)
    )
    assert torch.equal(with_cache, without)

    shrink(again, [2, 5])
    assert torch.equal(logits(again), before)
    assert again.state_dict().keys() == old.keys()
    assert all(torch.equal(value, old[name]) for name, value in again.state_dict().items())


def test_layers_are_spread_evenly_or_stand_on_top():
    assert new_layers(32, 8, "spread") == [4, 9, 14, 19, 24, 29, 34, 39]  # LLaMA-Pro 8B: one after every four
    assert new_layers(30, 4, "spread") == [8, 16, 25, 33]
    assert new_layers(4, 2, "top") == [4, 5]
    assert new_layers(3, 3, "spread") == [1, 3, 5]
    with pytest.raises(UsageError, match="at most as many"):
        new_layers(3, 4, "spread")


def test_on_top_it_begins_as_the_old_model_too_and_a_tied_one_stays_tied():
    model = tiny_llama()
    before = logits(model)
    assert expand(model, 2, "top") == [2, 3]
    assert torch.equal(logits(model), before)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


def test_new_layers_alone_learn_the_new_task_and_the_old_one_is_there_again_without_them():
    old_task, new_task = counting(1, rows=24), counting(2, rows=24, seed=5)
    model = tiny_llama()
    learn(model, old_task, steps=100)
    before, learnt = logits(model), float(loss_of(model, old_task).detach())
    new = expand(model, 2, "spread")
    train_only(model, new)
    start = float(loss_of(model, new_task).detach())
    learn(model, new_task, steps=80, rate=1e-2)
    assert float(loss_of(model, new_task).detach()) < 0.5 * start
    assert float(loss_of(model, old_task).detach()) > learnt + 0.5
    shrink(model, new)
    assert torch.equal(logits(model), before)


def test_a_zero_matrix_before_a_norm_would_be_blown_up_and_is_told():
    """Gemma's layer with its matrices switched off instead of its norms: the check that `expand` makes finds it."""
    from adapt.forgetting.expansion import _smooth
    from adapt.forgetting.layers import decoder_layers

    model = made("gemma2")
    layer = decoder_layers(model)[1]
    off = {p: (p.detach().clone(), 0.0) for n, p in layer.named_parameters() if "o_proj" in n or "down_proj" in n}
    assert not _smooth(model, layer, off)


def refused(model, said):
    before, config = logits(model), model.config.to_dict()
    with pytest.raises(UsageError, match=said):
        expand(model, 2, "spread")
    assert torch.equal(logits(model), before), "what is refused is left as it was"
    assert model.config.to_dict() == config


def test_layers_that_pass_something_on_beside_the_sum_are_refused_and_left_as_they_were():
    import transformers

    sizes = {**SIZES, "vocab_size_per_layer_input": 61, "hidden_size_per_layer_input": 4}
    types = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma4TextConfig(**sizes, layer_types=types, num_kv_shared_layers=0)
    torch.manual_seed(0)
    model = transformers.Gemma4ForCausalLM(config).eval()
    refused(model, "no layers can be added to a Gemma4ForCausalLM")


def test_layers_whose_kind_follows_from_their_number_are_refused():
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, decoder_sparse_step=2)
    refused(transformers.Qwen3MoeForCausalLM(config).eval(), "loaded again it would have another")


def test_a_layer_with_unknown_outputs_is_refused():
    import transformers

    torch.manual_seed(0)
    config = transformers.Lfm2Config(**{**SIZES, "block_ff_dim": 64}, layer_types=["full_attention"] * 4)
    refused(transformers.Lfm2ForCausalLM(config).eval(), "still changes what passes through")


def test_a_quantised_model_and_one_with_an_adapter_are_refused():
    import peft

    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=2))
    with pytest.raises(UsageError, match="before the adapter"):
        expand(model, 1, "top")
    model = tiny_llama()
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = torch.nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="before quantising"):
        expand(model, 1, "top")


def test_in_bf16_it_begins_as_the_old_model_too():
    for kind in ("llama", "gemma3"):
        model = made(kind).to(torch.bfloat16)
        before = logits(model)
        expand(model, 4, "spread")
        assert torch.equal(logits(model), before)

"""Frozen layers stay the same to the last bit; held ones until it is their turn, from the top."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_texts import counting, learn, tiny_llama

from adapt.forgetting.anchors import Anchors
from adapt.forgetting.freezing import freeze, held_units, hold
from adapt.recipe import Freezing
from retrieval.errors import UsageError

torch.set_num_threads(1)


def changed(model, before):
    """Names of parameters with a changed bit."""
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def copied(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def decaying(parameters, lr, weight_decay):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.5)


def test_the_lowest_layers_stay_the_same_to_the_last_bit_and_all_others_learn():
    model = tiny_llama(layers=4)
    before = copied(model)
    numbers = freeze(model, Freezing(layers=2))
    learn(model, counting(1), steps=5, optimizer=decaying)
    assert changed(model, before) == {
        name for name in before if not name.startswith(("model.layers.0.", "model.layers.1."))
    }
    assert numbers == sum(p.numel() for layer in model.model.layers[:2] for p in layer.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_embeddings_are_the_head_too_tied_or_not(tied):
    model = tiny_llama(tied=tied)
    before = copied(model)
    freeze(model, Freezing(embeddings=True))
    learn(model, counting(1), steps=5)
    same = before.keys() - changed(model, before)
    assert same == {"model.embed_tokens.weight"} | ({"lm_head.weight"} if not tied else set())


def test_with_an_adapter_its_weights_in_frozen_layers_are_frozen():
    import peft

    model = peft.get_peft_model(tiny_llama(layers=3), peft.LoraConfig(r=2, target_modules="all-linear"))
    before = copied(model)
    freeze(model, Freezing(layers=1))
    learn(model, counting(1), steps=3)
    learnt = changed(model, before)
    assert learnt and not any(".layers.0." in name for name in learnt)


@given(st.integers(1, 500), st.integers(0, 40))
def test_held_units_fall_one_by_one_from_all_to_none_by_the_middle(steps, units):
    held = [held_units(step, steps, units) for step in range(steps)]
    assert held[0] == units
    assert all(one >= other for one, other in zip(held, held[1:], strict=False))
    assert all(left == 0 for left in held[-(-steps // 2) :] if steps > 1)
    if steps >= 2 * units:
        assert set(range(1, units + 1)) <= set(held)
        lengths = [held.count(left) for left in range(1, units + 1)]
        assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_layers_join_from_the_top_and_the_embeddings_last():
    settings, steps = Freezing(layers=3, embeddings=True, unfreeze=True), 16
    model = tiny_llama(layers=3)
    assert freeze(model, settings) == 0
    joined: list[set[str]] = []
    start = copied(model)

    def look(step):
        hold(model, settings, step, steps)

    def remember(_):
        joined.append({name for name, p in model.named_parameters() if p.grad is not None})

    learn(model, counting(1), steps=steps, before_step=[look, remember], optimizer=decaying)

    def parts(names):
        return {name.split(".")[2] if ".layers." in name else name for name in names}

    assert parts(joined[0]) == {"model.norm.weight"}
    assert parts(joined[2]) == {"model.norm.weight", "2"}
    assert parts(joined[4]) == {"model.norm.weight", "2", "1"}
    assert parts(joined[6]) == {"model.norm.weight", "2", "1", "0"}
    assert joined[8] == joined[-1] == set(start)


def test_a_held_layer_does_not_move_although_anchors_and_weight_decay_would_move_it():
    settings = Freezing(layers=1, unfreeze=True)
    model = tiny_llama()
    anchors = Anchors(model, l2sp=1.0, before={n: torch.zeros_like(p) for n, p in model.named_parameters()})
    before = copied(model)
    calls = [lambda _: hold(model, settings, 0, 100), lambda _: anchors.add_gradients(model)]
    learn(model, counting(1), steps=4, before_step=calls, optimizer=decaying)
    assert changed(model, before) == {name for name in before if not name.startswith("model.layers.0.")}


def test_freezing_more_than_there_is_or_everything_is_refused():
    with pytest.raises(UsageError, match="has 2 layers"):
        freeze(tiny_llama(), Freezing(layers=3))
    with pytest.raises(UsageError, match="needs layers to hold"):
        freeze(tiny_llama(), Freezing(unfreeze=True))
    model = tiny_llama()
    model.model.norm.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to train"):
        freeze(model, Freezing(layers=2, embeddings=True))


def test_a_model_whose_layers_are_not_found_is_refused():
    import transformers

    config = transformers.MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, state_size=4)
    model = transformers.MambaForCausalLM(config)
    model.backbone.stack = model.backbone.layers
    del model.backbone.layers
    with pytest.raises(UsageError, match="were not found"):
        freeze(model, Freezing(layers=1))

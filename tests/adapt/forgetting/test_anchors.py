"""A pull back to the old weights: it is the gradient of a penalty, it holds weights, with EWC those that matter."""

import copy

import pytest
import torch
from tiny_texts import counting, learn, loss_of, tiny_llama

from adapt.forgetting.anchors import Anchors
from adapt.forgetting.fisher import Fisher, fisher, load_fisher, save_fisher
from adapt.forgetting.layers import plain_name
from retrieval.errors import DamagedError, UsageError

torch.set_num_threads(1)


def quiet(*_):
    pass


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def distance(model, before):
    return float(sum((p.detach() - before[n]).square().sum() for n, p in model.named_parameters()) ** 0.5)


def moved(model, by=0.01, seed=3):
    """The model with every trained weight moved a little, and gradients of zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=random)
                parameter.grad = torch.zeros_like(parameter)
    return model


def test_what_is_added_is_the_gradient_of_the_penalty_that_is_returned():
    model = tiny_llama()
    before = weights(model)
    importance = {name: torch.rand_like(value).bfloat16().float() for name, value in before.items()}
    anchors = Anchors(model, l2sp=0.3, ewc=2.0, fisher=importance)
    moved(model)
    penalty = anchors.add_gradients(model)
    mine = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = sum(
        (0.5 * (0.3 + 2.0 * importance[n]) * (p - before[n]).square()).sum() for n, p in model.named_parameters()
    )
    total.backward()
    assert penalty == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad)


def test_l2sp_keeps_a_model_nearer_to_what_it_was_the_more_the_heavier():
    start = tiny_llama()
    before = weights(start)
    distances = []
    for weight in (None, 0.003, 0.03):
        model = copy.deepcopy(start)
        calls = []
        if weight:
            anchors = Anchors(model, l2sp=weight)
            calls.append(lambda _step, anchors=anchors, model=model: anchors.add_gradients(model))
        learn(model, counting(1), steps=30, before_step=calls)
        distances.append(distance(model, before))
    assert distances[0] > 1.05 * distances[1] > 1.05**2 * distances[2]


def test_anchors_of_a_model_published_in_bf16_are_kept_in_two_bytes_and_others_exactly():
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.bfloat16())
    anchors = Anchors(model, l2sp=1.0)
    kinds = {name: anchor.old.dtype for name, anchor in anchors._anchors.items()}
    assert kinds["model.embed_tokens.weight"] == torch.bfloat16
    assert kinds["model.layers.0.mlp.up_proj.weight"] == torch.float32
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert anchors.add_gradients(model) == 0.0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_frozen_weights_have_no_anchor_and_one_without_a_gradient_is_left_alone():
    model = tiny_llama()
    model.model.layers[0].requires_grad_(False)
    anchors = Anchors(model, l2sp=1.0)
    assert not any(".layers.0." in name for name in anchors._anchors)
    moved(model)
    model.model.norm.weight.grad = None
    assert anchors.add_gradients(model) > 0
    assert model.model.norm.weight.grad is None and model.model.layers[0].mlp.up_proj.weight.grad is None


def test_rows_that_a_vocabulary_has_grown_by_are_free_and_the_old_ones_are_pulled():
    old = tiny_llama()
    before = weights(old)
    model = copy.deepcopy(old)
    model.resize_token_embeddings(70, mean_resizing=False)
    importance = {name: torch.ones_like(value) for name, value in before.items()}
    anchors = Anchors(model, l2sp=1.0, ewc=1.0, fisher=importance, before=before)
    moved(model)
    anchors.add_gradients(model)
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[:61].abs().min() > 0 and not gradient[61:].any()
    expected = 2 * (model.get_input_embeddings().weight.detach()[:61] - before["model.embed_tokens.weight"])
    torch.testing.assert_close(gradient[:61], expected)


def test_anchors_of_another_model_are_refused():
    before = weights(tiny_llama())
    with pytest.raises(UsageError, match="have no 'model.layers.2"):
        Anchors(tiny_llama(layers=3), l2sp=1.0, before=before)
    with pytest.raises(UsageError, match="only rows may have been added"):
        Anchors(tiny_llama(vocabulary=50), l2sp=1.0, before=before)
    model = tiny_llama()
    model.model.layers[0].requires_grad_(False)
    anchors = Anchors(model, l2sp=1.0)
    model.requires_grad_(True)
    with pytest.raises(UsageError, match="is trained now"):
        anchors.add_gradients(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"l2sp": 0.0}, "above 0"), ({"ewc": float("nan")}, "above 0"), ({"ewc": 1.0}, "needs the Fisher")],
)
def test_weights_that_mean_nothing_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        Anchors(tiny_llama(), **options)


def test_names_are_those_of_the_stored_weights():
    assert plain_name("module._orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight") == (
        "model.layers.0.mlp.up_proj.weight"
    )
    assert plain_name("base_model.model.model.norm.weight") == "model.norm.weight"
    assert plain_name("some_module.base_model.model.x") == "some_module.base_model.model.x"


# --- Fisher -----------------------------------------------------------------------------------------------------------


def test_the_fisher_is_the_mean_of_squared_gradients_of_rows_with_mean_one():
    model, rows = tiny_llama(), counting(1, rows=3)
    found = fisher(model, rows, tokens=10_000, progress=quiet)
    places = 3 * 14
    assert (found.rows, found.tokens) == (3, places)
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for one in rows:
        model.zero_grad()
        (loss_of(model, [one]) * 14).backward()
        for name, parameter in model.named_parameters():
            expected[name] += parameter.grad.square() / places
    for name, value in expected.items():
        torch.testing.assert_close(found.values[name] * found.scale, value, rtol=1e-3, atol=1e-9)
    count = sum(value.numel() for value in found.values.values())
    assert float(sum(value.sum() for value in found.values.values())) / count == pytest.approx(1.0, rel=1e-4)


def test_the_fisher_reads_no_more_than_it_was_given_and_leaves_the_model_as_it_was():
    model = tiny_llama().train()
    read = []

    def rows():
        for one in counting(1, rows=8):
            read.append(one)
            yield one

    found = fisher(model, rows(), tokens=40, progress=quiet)
    assert len(read) == found.rows == 3
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_a_fisher_of_no_text_is_refused():
    with pytest.raises(UsageError, match="name a source with text"):
        fisher(tiny_llama(), [], tokens=10, progress=quiet)


def test_a_stored_fisher_comes_back_and_one_of_something_else_does_not(tmp_path):
    found = fisher(tiny_llama(), counting(1), tokens=50, progress=quiet)
    file = tmp_path / "fisher.safetensors"
    save_fisher(found, file, of="this")
    again = load_fisher(file, of="this")
    assert (again.scale, again.tokens, again.rows) == (found.scale, found.tokens, found.rows)
    for name, value in found.values.items():
        torch.testing.assert_close(again.values[name].float(), value, rtol=5e-3, atol=0)
    with pytest.raises(DamagedError, match="another model or text"):
        load_fisher(file, of="that")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedError, match="cannot be read"):
        load_fisher(file)
    with pytest.raises(DamagedError):
        load_fisher(tmp_path / "absent.safetensors")


@pytest.mark.slow
def test_ewc_forgets_less_than_l2sp_although_it_lets_the_weights_go_further():
    """Counting by 1 on some tokens, then by 2 on others. With EWC more moves, but what the old task needs stays."""
    held = counting(1, rows=16, seed=99, among=(0, 30))
    new_task = counting(2, rows=24, seed=5, among=(20, 61))
    start = tiny_llama()
    for seed in range(4):
        learn(start, counting(1, rows=24, seed=100 + seed, among=(0, 30)), steps=40)
    before = weights(start)
    importance = fisher(start, counting(1, rows=48, seed=7, among=(0, 30)), tokens=10_000, progress=quiet).values

    def trained(**options):
        model = copy.deepcopy(start)
        anchors = Anchors(model, **options)
        learn(model, new_task, steps=60, rate=1e-3, before_step=[lambda _: anchors.add_gradients(model)])
        return model, float(loss_of(model, held).detach()), float(loss_of(model, new_task).detach())

    _, lost, _ = trained()
    ewc, lost_by_ewc, learnt_by_ewc = trained(ewc=10.0, fisher=importance)
    l2sp, lost_by_l2sp, learnt_by_l2sp = trained(l2sp=0.1)
    assert float(loss_of(start, held).detach()) < 0.01
    assert lost > 1.0, "the new task must hurt the old one, or nothing is shown"
    assert distance(ewc, before) > distance(l2sp, before)
    assert lost_by_ewc < 0.6 * lost_by_l2sp
    assert learnt_by_ewc < 1.02 * learnt_by_l2sp

    def share_of_what_matters(model):
        moves = {name: (p.detach() - before[name]).square() for name, p in model.named_parameters()}
        important = sum(float(move[importance[name] > 10.0].sum()) for name, move in moves.items())
        return important / sum(float(move.sum()) for move in moves.values())

    assert share_of_what_matters(ewc) < 0.2 * share_of_what_matters(l2sp)


# --- adapters ---------------------------------------------------------------------------------------------------------


def with_lora(**options):
    import peft

    model = tiny_llama(tied=False)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options}
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))


def test_beside_lora_the_update_is_pulled_exactly_without_making_it():
    model = with_lora()
    anchors = Anchors(model, l2sp=0.7)
    assert not anchors._anchors
    moved(model, by=0.1)
    penalty = anchors.add_gradients(model)
    mine = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    total = torch.zeros(())
    for module in model.modules():
        if hasattr(module, "lora_A"):
            update = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
            total = total + 0.5 * 0.7 * update.square().sum()
    total.backward()
    assert penalty == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_beside_lora_the_merged_weights_stay_nearer():
    distances = []
    for weight in (None, 0.1):
        torch.manual_seed(1)
        model = with_lora()
        before = weights(tiny_llama(tied=False))
        anchors = Anchors(model, l2sp=weight)
        learn(model, counting(1), steps=30, before_step=[lambda _, a=anchors, m=model: a.add_gradients(m)])
        distances.append(distance(model.merge_and_unload(), before))
    assert distances[1] < 0.8 * distances[0]


def test_ewc_beside_an_adapter_and_adapters_that_are_no_product_are_refused():
    with pytest.raises(UsageError, match="method: full"):
        Anchors(with_lora(), ewc=1.0, fisher={})
    with pytest.raises(UsageError, match="DoRA"):
        Anchors(with_lora(use_dora=True), l2sp=1.0)
    with pytest.raises(UsageError, match="begins at zero.*pissa"):
        Anchors(with_lora(init_lora_weights="pissa"), l2sp=1.0)
    with pytest.raises(UsageError, match="trainable_token_indices"):
        Anchors(with_lora(trainable_token_indices=[1, 2]), l2sp=1.0)


def test_what_is_trained_in_full_beside_lora_is_pulled_as_usual():
    model = with_lora(modules_to_save=["lm_head"])
    anchors = Anchors(model, l2sp=1.0)
    assert len(anchors._anchors) == 1
    moved(model)
    anchors.add_gradients(model)
    assert model.base_model.model.lm_head.modules_to_save["default"].weight.grad.abs().min() > 0


def test_a_stored_fisher_is_taken_as_it_was_loaded(tmp_path):
    model = tiny_llama()
    save_fisher(Fisher({n: torch.ones_like(v) for n, v in weights(model).items()}, 1.0, 1, 1), tmp_path / "f")
    anchors = Anchors(model, ewc=1.0, fisher=load_fisher(tmp_path / "f").values)
    other = Anchors(model, l2sp=1.0)
    moved(model)
    assert anchors.add_gradients(model) == pytest.approx(other.add_gradients(model))

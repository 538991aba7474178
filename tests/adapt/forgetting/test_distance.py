"""KL to an older model: exact where all tokens are kept, never too large where some are, and it does hold a model."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_texts import VOCABULARY, counting, learn, loss_of, row, tiny_llama
from torch.nn import functional

from adapt.forgetting.distance import LiveTeacher, TopTargets, aligns, kl, top_of
from adapt.forgetting.passing import packed_inputs, predicting
from retrieval.errors import UsageError

torch.set_num_threads(1)


def full_kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """torch's own, summed over places."""
    old = (teacher / temperature).log_softmax(-1)
    new = (student / temperature).log_softmax(-1)
    return functional.kl_div(new, old, log_target=True, reduction="sum") * temperature**2


def made(seed: int, places: int = 7, width: int = 5, tokens: int = 11) -> tuple[torch.Tensor, ...]:
    """hidden, weight, bias of the student and the teacher's logits, in fp64."""
    random = torch.Generator().manual_seed(seed)
    sizes = ((places, width), (tokens, width), (tokens,), (places, tokens))
    return tuple(torch.randn(size, generator=random, dtype=torch.float64) * 2 for size in sizes)


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.5, 3.0]), st.booleans(), st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_with_every_token_kept_it_is_the_full_kl_and_has_its_gradient(seed, temperature, capped, chunk):
    hidden, weight, bias, teacher = (part.float() for part in made(seed))
    scale, cap = (0.7, 3.0) if capped else (1.0, None)
    results = []
    for ours in (True, False):
        given_ = [part.clone().requires_grad_(True) for part in (hidden, weight, bias)]
        h, w, b = given_
        if ours:
            targets = top_of(teacher, top=99, vocabulary=11, temperature=temperature)
            shape = {"bias": b, "scale": scale, "cap": cap, "logits_at_once": chunk, "reduction": "sum"}
            value = kl(h, w, targets, factor=0.3, **shape)
        else:
            logits = (h @ w.T + b) * scale
            logits = cap * torch.tanh(logits / cap) if cap else logits
            value = full_kl(teacher, logits, temperature) * 0.3
        value.backward()
        results.append([value.detach(), *(part.grad for part in given_)])
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=2e-4, atol=2e-4)


def coarse_kl(teacher: torch.Tensor, student: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Directly from the definition: the probabilities of the top tokens and of all others together."""
    total = torch.zeros(())
    for old, new, top in zip(teacher.softmax(-1), student.softmax(-1), ids, strict=True):
        others = torch.ones_like(old, dtype=torch.bool)
        others[top] = False
        p = torch.cat([old[top], old[others].sum()[None]])
        q = torch.cat([new[top], new[others].sum()[None]])
        total = total + (p * (p / q).log()).sum()
    return total


@given(st.integers(0, 10_000), st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_with_some_tokens_kept_it_is_the_kl_of_the_coarsened_distributions(seed, top):
    hidden, weight, _, teacher = made(seed)
    targets = top_of(teacher, top=top, vocabulary=11)
    mine = [part.float().requires_grad_(True) for part in (hidden, weight)]
    value = kl(*mine, targets, reduction="sum")
    value.backward()
    theirs = [part.clone().requires_grad_(True) for part in (hidden, weight)]
    expected = coarse_kl(teacher, theirs[0] @ theirs[1].T, targets.ids)
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-4)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_more_tokens_kept_never_make_it_smaller_and_it_is_never_more_than_the_full_kl(seed):
    hidden, weight, _, teacher = (part.float() for part in made(seed))
    values = [
        float(kl(hidden, weight, top_of(teacher, top=top, vocabulary=11), reduction="sum")) for top in range(1, 12)
    ]
    assert all(one <= other + 1e-3 for one, other in zip(values, values[1:], strict=False))
    assert values[-1] == pytest.approx(float(full_kl(teacher, hidden @ weight.T)), rel=1e-4, abs=1e-4)
    assert values[0] >= -1e-4


def test_a_student_that_gives_the_rest_next_to_nothing_has_a_finite_kl_and_gradient():
    hidden = torch.eye(2).requires_grad_(True)
    weight = torch.tensor([[300.0, 0.0], [0.0, 300.0], [-300.0, -300.0]])
    targets = top_of(torch.zeros(2, 3), top=2, vocabulary=3)
    value = kl(hidden, weight, targets)
    value.backward()
    # a third of the mass lies 600 nats below, another third 300
    assert float(value.detach()) == pytest.approx((600 + 300) / 3 - np.log(3), rel=1e-4)
    assert torch.isfinite(hidden.grad).all()


def test_a_mean_is_over_the_places_given_and_no_place_at_all_gives_zero_with_a_gradient():
    hidden, weight, _, teacher = (part.float() for part in made(1))
    targets = top_of(teacher, top=4, vocabulary=11)
    some = torch.tensor([True, False, True, False, False, True, False])
    mean = kl(hidden[some], weight, targets.at(some))
    assert float(mean) == pytest.approx(float(kl(hidden[some], weight, targets.at(some), reduction="sum")) / 3)
    nothing = hidden[:0].requires_grad_(True)
    value = kl(nothing, weight, targets.at(torch.arange(0)))
    value.backward()
    assert float(value.detach()) == 0.0 and nothing.grad.shape == (0, 5)


def test_new_tokens_of_the_student_are_left_out_of_the_comparison():
    hidden, weight, _, _ = (part.float() for part in made(2))
    teacher = hidden @ weight.T
    longer = torch.cat([weight, torch.randn(3, 5) * 9]).requires_grad_(True)
    value = kl(hidden, longer, top_of(teacher, top=4, vocabulary=11))
    value.backward()
    assert abs(float(value.detach())) < 1e-5
    assert longer.grad.shape == (14, 5) and not longer.grad[11:].any()


def test_a_teacher_with_more_tokens_than_the_student_is_refused():
    hidden, weight, _, teacher = (part.float() for part in made(3))
    with pytest.raises(UsageError, match="11 tokens and the student only 9"):
        kl(hidden, weight[:9], top_of(teacher, top=4, vocabulary=11))


def test_rows_padded_in_the_teachers_matrix_are_cut_away():
    teacher = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
    found = top_of(teacher, top=2, vocabulary=3)
    assert found.ids.tolist() == [[2, 1]]
    assert float(found.logprobs.exp().sum() + found.rest.exp()) == pytest.approx(1.0)


def test_under_bf16_autocast_it_is_near_and_the_gradients_keep_their_type():
    hidden, weight, _, teacher = (part.float() for part in made(4, places=40))
    targets = top_of(teacher, top=6, vocabulary=11)
    exact = kl(hidden, weight, targets)
    weight.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = kl(hidden, weight, targets)
    rounded.backward()
    assert float(rounded.detach()) == pytest.approx(float(exact), rel=0.05)
    assert weight.grad.dtype == torch.float32


# --- the live teacher -------------------------------------------------------------------------------------------------


def hidden_and_places(model, rows):
    inputs, inside = packed_inputs(rows, model)
    return model.base_model(**inputs).last_hidden_state[inside], predicting(rows)


def test_a_model_is_at_distance_zero_from_itself_whatever_the_documents_beside():
    model = tiny_llama().eval()
    rows = [row([1, 2, 3, 4], [5, 6]), row([7, 8, 9]), *counting(3)]
    teacher = LiveTeacher(copy.deepcopy(model), top=8)
    targets = teacher.targets([0, 1, *range(8)], rows)
    hidden, places = hidden_and_places(model, rows)
    assert len(targets) == len(hidden) == 9 + 8 * 16
    assert abs(float(kl(hidden[places], model.lm_head.weight, targets.at(places)).detach())) < 1e-6
    alone = teacher.targets([0], [row([5, 6])])
    torch.testing.assert_close(targets.logprobs[4:6], alone.logprobs)


def test_a_row_with_a_token_that_the_older_model_lacks_is_refused():
    teacher = LiveTeacher(tiny_llama(), top=8, old_vocabulary=50)
    assert aligns(row([49, 1]), 50) and not aligns(row([50, 1]), 50)
    with pytest.raises(UsageError, match="token 50.*older model's tokenizer"):
        teacher.targets([0], [row([1, 50])])
    assert teacher.targets([0], [row([1, 2])]).vocabulary == 50


@pytest.mark.slow
def test_training_with_it_keeps_the_old_task_where_training_without_it_loses_it():
    """Counting by 1, then by 2. The KL rows count by 1 and are not in the new task's text."""
    old_task, new_task, held = counting(1, rows=24), counting(2, rows=24, seed=5), counting(1, rows=8, seed=99)
    model = tiny_llama()
    learn(model, old_task, steps=150)
    learnt = float(loss_of(model, held).detach())
    assert learnt < 1.5
    teacher = LiveTeacher(copy.deepcopy(model), top=16)
    plain, held_back = copy.deepcopy(model), copy.deepcopy(model)
    learn(plain, new_task, steps=60)
    targets = teacher.targets(range(24), old_task)

    def distance():
        hidden, places = hidden_and_places(held_back, old_task)
        return 0.5 * kl(hidden[places], held_back.lm_head.weight, targets.at(places))

    learn(held_back, new_task, steps=60, also=distance)
    forgot, kept = (float(loss_of(m, held).detach()) - learnt for m in (plain, held_back))
    assert forgot > 0.5, "the new task must hurt the old one, or nothing is shown"
    assert kept < 0.6 * forgot
    unseen = teacher.targets(range(8), held)
    far, near = (
        float(kl(hidden[places], one.lm_head.weight, unseen.at(places)))
        for one in (plain, held_back)
        for hidden, places in [hidden_and_places(one, held)]
    )
    assert near < 0.5 * far
    assert float(loss_of(held_back, new_task)) < 0.7 * float(loss_of(model, new_task))


def test_targets_move_to_a_device_and_keep_what_they_say():
    targets = TopTargets(torch.zeros(2, 1).long(), torch.zeros(2, 1), torch.zeros(2), VOCABULARY, 2.0).to("cpu")
    assert len(targets) == 2 and targets.vocabulary == VOCABULARY and targets.temperature == 2.0

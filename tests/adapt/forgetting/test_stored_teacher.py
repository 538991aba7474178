"""What the older model thought, written down: as good as asking it, each row once, whole after a kill."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from tiny_texts import TinyOrder, counting, row, tiny_llama

from adapt.forgetting import stored_teacher
from adapt.forgetting.distance import LiveTeacher
from adapt.forgetting.stored_teacher import MANIFEST, StoredTeacher, bytes_needed, precompute, size
from retrieval.errors import DamagedError, FathomError, UsageError

torch.set_num_threads(1)
GENERAL = {1}


def mixed() -> TinyOrder:
    """Rows 0-2 domain, 3-6 general, then two of the general rows again, then a short one."""
    general = counting(3, rows=4, source=1)
    return TinyOrder([*counting(1, rows=3), *general, general[2], general[0], row([4, 5, 6], [7], source=1)])


def asked(order, folder, *, load=tiny_llama, top=8, progress=lambda *_: None, **options):
    settings = {"teacher": "weights", "old_vocabulary": 61, **options}
    return precompute(load, order, GENERAL, top=top, folder=folder, progress=progress, **settings)


def test_it_says_what_the_model_itself_says(tmp_path):
    order = mixed()
    stored, live = asked(order, tmp_path), LiveTeacher(tiny_llama(), top=8)
    for numbers in ([3], [9, 8, 4], [7, 5]):
        rows = [order.row(number) for number in numbers]
        one, other = stored.targets(numbers, rows), live.targets(numbers, rows)
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=4e-3, rtol=0)
        torch.testing.assert_close(one.rest, other.rest, atol=4e-3, rtol=0)
        total = one.logprobs.exp().sum(-1) + one.rest.exp()
        torch.testing.assert_close(total, torch.ones_like(total))


def test_rows_that_come_again_are_asked_and_stored_once_and_the_size_is_known_before(tmp_path):
    order = mixed()
    needed = size(order, GENERAL, top=8)
    assert (needed.rows, needed.places) == (5, 4 * 16 + 4)
    stored = asked(order, tmp_path)
    assert (stored.rows, stored.places) == (5, 68)
    on_disk = sum(file.stat().st_size for file in stored.folder.glob("*.npy"))
    assert 0 <= on_disk - needed.bytes <= 3 * 128  # the headers
    assert bytes_needed(1, 64) == 386


def test_the_same_tokens_in_other_documents_are_another_row(tmp_path):
    order = TinyOrder([row([4, 5, 6, 7], source=1), row([4, 5], [6, 7], source=1)])
    stored = asked(order, tmp_path)
    one, other = (stored.targets([number], [order.row(number)]) for number in (0, 1))
    torch.testing.assert_close(one.logprobs[:2], other.logprobs[:2], atol=4e-3, rtol=0)
    assert not torch.allclose(one.logprobs[2:], other.logprobs[2:], atol=4e-2)


def test_a_second_call_loads_no_model_and_another_teacher_order_or_setting_is_another_folder(tmp_path):
    order = mixed()
    first = asked(order, tmp_path)
    assert asked(order, tmp_path, load=lambda: pytest.fail("loaded")).folder == first.folder
    other_order = mixed()
    other_order.sha256 = "another"
    folders = {
        asked(order, tmp_path, teacher="others").folder,
        asked(other_order, tmp_path).folder,
        asked(order, tmp_path, top=4).folder,
        asked(order, tmp_path, temperature=2.0).folder,
        first.folder,
    }
    assert len(folders) == 5


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_teacher, "KEEP_SECONDS", -1.0)
    monkeypatch.setattr(stored_teacher, "TEACHER_LOGITS_AT_ONCE", 61 * 16)  # a row at a time
    order = mixed()
    whole = asked(order, tmp_path / "whole")
    calls = []

    def dying(_stage, done, _total):
        calls.append(done)
        if len(calls) in (3, 5):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            asked(order, tmp_path / "killed", progress=dying)
    resumed = asked(order, tmp_path / "killed", progress=dying)
    assert calls == [0, 16, 32, 32, 48, 48, 64, 68]
    for file in ("ids.npy", "logprobs.npy", "starts.npy"):
        assert (whole.folder / file).read_bytes() == (resumed.folder / file).read_bytes()


def test_asked_to_stop_it_keeps_what_it_has_and_returns_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_teacher, "TEACHER_LOGITS_AT_ONCE", 61 * 16)
    stop = threading.Event()
    stop.set()
    order = mixed()
    assert asked(order, tmp_path, stop=stop) is None
    begun = []
    assert asked(order, tmp_path, progress=lambda _s, done, _t: begun.append(done)) is not None
    assert begun[0] == 16


def test_a_row_with_a_newer_token_is_refused_before_the_model_is_loaded(tmp_path):
    order = TinyOrder([row([1, 2]), row([3, 60, 4], source=1)])
    with pytest.raises(UsageError, match="source 'general' holds token 60.*older model's tokenizer"):
        asked(order, tmp_path, old_vocabulary=60, load=lambda: pytest.fail("loaded"))


def test_a_disk_that_is_too_small_is_said_before_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stored_teacher.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(FathomError, match="free some space, keep fewer"):
        asked(mixed(), tmp_path)


@pytest.mark.parametrize("file", ["ids.npy", "logprobs.npy", "starts.npy"])
def test_a_changed_byte_is_noticed(tmp_path, file):
    folder = asked(mixed(), tmp_path).folder
    data = bytearray((folder / file).read_bytes())
    data[-3] ^= 1
    (folder / file).write_bytes(bytes(data))
    with pytest.raises(DamagedError, match=f"{file}.*made again"):
        StoredTeacher(folder)


def test_a_hostile_manifest_or_array_is_damage_not_a_crash(tmp_path):
    folder = asked(mixed(), tmp_path).folder
    facts = json.loads((folder / MANIFEST).read_bytes())
    for wrong in ({**facts, "places": 10**9}, {**facts, "top": "x"}, {}, [], {**facts, "files": 3}):
        (folder / MANIFEST).write_text(json.dumps(wrong))
        with pytest.raises(DamagedError):
            StoredTeacher(folder)
    (folder / MANIFEST).write_text(json.dumps(facts))
    np.save(folder / "ids.npy", np.full((68, 8), 10**6, dtype=np.int32), allow_pickle=False)
    with pytest.raises(DamagedError, match="tokens that do not exist"):
        StoredTeacher(folder, check=False).targets([3], [mixed().row(3)])
    os.truncate(folder / "ids.npy", 50)
    with pytest.raises(DamagedError):
        StoredTeacher(folder, check=False)


def test_a_row_that_was_not_asked_about_is_refused(tmp_path):
    order = mixed()
    stored = asked(order, tmp_path)
    for number in (0, 10_000):
        with pytest.raises(UsageError, match=f"row {number} of this order"):
            stored.targets([number], [order.row(0)])


def test_a_vocabulary_smaller_than_what_is_kept_is_kept_whole(tmp_path):
    order = mixed()
    stored = asked(order, tmp_path, top=500)
    targets = stored.targets([3], [order.row(3)])
    assert targets.ids.shape == (16, 61) and (targets.rest == float("-inf")).all()

"""What is said of the machine is so, and its speed is measured without changing how it works."""

import os

import pytest

from adapt.machine import GIB, Gpu, Machine, cores, cpu_flags, matmul_rate, memory_total, this_machine


def test_this_machine_has_cores_and_memory() -> None:
    found = this_machine()
    assert 1 <= found.cores <= (os.cpu_count() or 1) and found.cores == cores()
    assert 0 < found.free <= found.memory == memory_total()
    assert found.device == ("cuda" if found.gpus else "cpu")
    flags = cpu_flags()
    if flags is not None:
        assert found.bf16 == bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)


def test_a_machine_with_gpus_trains_on_the_smallest() -> None:
    gpus = (Gpu("A", 80 * GIB, 70 * GIB, True), Gpu("B", 24 * GIB, 20 * GIB, False))
    found = Machine(8, 64 * GIB, 32 * GIB, True, gpus)
    assert (found.device, found.free_for_training, found.computes_bf16) == ("cuda", 20 * GIB, False)
    assert "A (70 of 80 GiB free)" in found.described()
    alone = Machine(8, 64 * GIB, 32 * GIB, True)
    assert (alone.device, alone.free_for_training, alone.computes_bf16) == ("cpu", 32 * GIB, True)
    assert "no GPU" in alone.described()


@pytest.mark.parametrize("bf16", [False, True])
def test_measuring_leaves_the_threads_as_they_were(bf16: bool) -> None:
    import torch

    before = torch.get_num_threads()
    assert matmul_rate("cpu", bf16=bf16, rows=8, width=64, out=64) > 1e6
    assert torch.get_num_threads() == before

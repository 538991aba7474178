"""Run by tests/adapt/forgetting/test_sharded.py in two processes: anchors on FSDP2's shards against one whole model.

Writes {case: {"penalty": [sharded, whole], "difference": largest of the gradients}} to the file it is given.
"""

import copy
import json
import sys
from pathlib import Path

import peft
import torch
from tiny_texts import tiny_llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from adapt.forgetting.anchors import Anchors


def sharded(model, mesh):
    for layer in model.get_base_model().model.layers if hasattr(model, "peft_config") else model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def moved(model):
    """Every trained weight moved by the same numbers, sharded or not; gradients of zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                move = 0.1 * torch.randn(parameter.shape, generator=random)
                if isinstance(parameter, DTensor):
                    move = distribute_tensor(move, parameter.device_mesh, parameter.placements)
                parameter += move
                parameter.grad = torch.zeros_like(parameter)
    return model


def compared(whole, mesh, **options):
    split = sharded(copy.deepcopy(whole), mesh)
    results = []
    for model in (split, whole):
        anchors = Anchors(model, **options)
        penalty = anchors.add_gradients(moved(model))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((penalty, [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]))
    (one, mine), (other, theirs) = results
    assert any(gradient.any() for gradient in theirs)
    difference = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    return {"penalty": [one, other], "difference": difference}


def main(file: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    shards = init_device_mesh("cpu", (2,))
    copies = init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards"))
    old = tiny_llama()
    before = {name: parameter.detach().clone() for name, parameter in old.named_parameters()}
    importance = {name: (value.abs() * 10).bfloat16() for name, value in before.items()}
    grown = copy.deepcopy(old)
    grown.resize_token_embeddings(70, mean_resizing=False)
    lora = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=3, target_modules="all-linear"))
    both = {"l2sp": 0.3, "ewc": 2.0, "fisher": importance}
    found = {
        "as it is": compared(copy.deepcopy(old), shards, **both),
        "copies of shards": compared(copy.deepcopy(old), copies, **both),
        "new rows": compared(grown, shards, **both, before=before),
        "adapter": compared(lora, shards, l2sp=0.3),
    }
    if torch.distributed.get_rank() == 0:
        file.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

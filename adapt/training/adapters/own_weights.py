"""A model → the same with some of its own small weights trained or scaled: biases alone (BitFit), and IA³."""

from typing import Any

from retrieval.errors import UsageError

NO_BIAS = (
    "the model has no biases, as most Llama-like models have none, so bitfit has nothing to train; use lora or ia3"
)


def biases_alone(model: Any) -> Any:
    """Train every bias and nothing else (Ben Zaken et al. 2021, arXiv:2106.10199). peft's `bias="all"` is LoRA too.
    Raises UsageError where the model has none."""
    model.requires_grad_(False)
    found = [weight for name, weight in model.named_parameters() if name.endswith(".bias")]
    if not found:
        raise UsageError(NO_BIAS)
    for weight in found:
        weight.requires_grad_(True)
    return model


def under_ia3(model: Any) -> Any:
    """Vectors that scale keys, values and what goes into the MLP's last matrix (Liu et al. 2022, arXiv:2205.05638).
    Raises ValueError where peft does not know where those are."""
    from peft import IA3Config, get_peft_model

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    known = ("k_proj", "v_proj", "down_proj")
    told: dict[str, Any] = {}
    if names.issuperset(known):
        told = {"target_modules": list(known), "feedforward_modules": ["down_proj"]}
    return get_peft_model(model, IA3Config(task_type="CAUSAL_LM", **told))

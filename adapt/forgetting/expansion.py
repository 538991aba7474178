"""A model → the same model with more decoder layers that do nothing yet, to be trained while the old ones rest.

LLaMA-Pro (Wu et al. 2024, arXiv:2401.02415): copies of layers whose outputs are switched off, so that the new model
begins as the old one. Whether it does is computed, not assumed. It knows no trainer.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from adapt.forgetting.layers import bare, stack, text_config, unwrapped
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OUTPUTS = frozenset({"o_proj", "out_proj", "down_proj", "down_proj_bias", "dense", "dense_4h_to_h", "fc2", "c_proj"})
"""What the last matrix of attention and of the feed-forward part is called (Llama, Qwen, Mistral, Gemma, Granite, OLMo,
Phi, GPT-NeoX, GPT-2, and mixtures of experts)."""
_AFTER = ("post_self_attn_layernorm", "post_mlp_layernorm"), ("post_attention_layernorm", "post_feedforward_layernorm")
"""Norms that stand between such a matrix and the sum, where a layer has both of a pair (GLM-4; Gemma, OLMo 2)."""
_LISTS_OF_LAYERS = frozenset({"mlp_only_layers", "full_attn_idxs"})
"""Configuration lists that hold numbers of layers, not one entry for each."""
_PROBE = 12
"""Tokens of the text that the comparison reads."""
_SMALL = 1e-3


def new_layers(layers: int, count: int, where: Literal["spread", "top"]) -> list[int]:
    """Where `count` new layers stand, counted in the expanded model, when the old one has `layers`.

    "spread": after each of `count` equal groups of old layers (LLaMA-Pro); "top": above all. Raises UsageError.
    """
    return [place for place, (_, new) in enumerate(_plan(layers, count, where)) if new]


def _plan(layers: int, count: int, where: str) -> list[tuple[int, bool]]:
    """(old layer that it is or is copied from, whether it is new), bottom first."""
    if count > layers:
        raise UsageError(f"`expand.layers` is {count} and the model has {layers}; add at most as many as there are")
    after = [layers - 1] * count if where == "top" else [-(-layers * (i + 1) // count) - 1 for i in range(count)]
    return [entry for old in range(layers) for entry in ((old, False), *[(old, True)] * after.count(old))]


def expand(model: Any, layers: int, where: Literal["spread", "top"]) -> list[int]:
    """Add `layers` decoder layers to the model in place; returns where they stand (as `new_layers`).

    Each is a deep copy of the layer below it with its two outputs switched off: the matrices o_proj and down_proj are
    zero, or, where a norm follows them before the sum (Gemma, OLMo 2, GLM-4), that norm's gain is. (A zero matrix
    before a norm would do for the beginning, but the norm would blow up whatever the first step makes of it to full
    size.) The rest of the copy is what makes the first gradients of those zeros useful. `layer_idx`,
    `num_hidden_layers`, `layer_types` and other lists of the configuration with an entry for each layer grow along, so
    that saving, loading and generating with a cache work; tied matrices stay tied.

    Then it is computed: logits before and after are equal to the bit, a copy whose outputs are switched on a little
    changes little, and a model built from the new configuration has the same parameters and settings in every layer.
    Where one does not hold (layers that share caches or inputs with others, mixed kinds counted by a rule), the model
    is left as it was and UsageError says why; also for quantised weights and for a model with an adapter.
    """

    inner = bare(model)
    config = text_config(model)
    owner, old, attribute = stack(model)
    plan = _plan(len(old), layers, where)
    if hasattr(unwrapped(model), "peft_config"):
        raise UsageError("layers are added before the adapter; the model already has one")
    if any(not parameter.is_floating_point() for parameter in old.parameters()):
        raise UsageError("layers are added before quantising; load the model in bf16 or fp32 for `expand`")
    if getattr(config, "num_kv_shared_layers", 0):
        raise UsageError(_refusal(inner, "its upper layers share the caches of lower ones"))
    settings = _settings(config)
    before = _logits(inner)
    stacked = [copy.deepcopy(old[number]) if new else old[number] for number, new in plan]
    made = [place for place, (_, new) in enumerate(plan) if new]
    originals = [_switch_off(stacked[place]) for place in made]
    try:
        _install(owner, attribute, stacked, config, _grown(settings, plan))
        why = _fault(inner, before, stacked[made[0]], originals[0])
    except BaseException:
        _install(owner, attribute, list(old), config, settings)
        raise
    if why:
        _install(owner, attribute, list(old), config, settings)
        raise UsageError(_refusal(inner, why))
    return made


def shrink(model: Any, layers: Sequence[int]) -> None:
    """Take layers out again, in place: what `expand` added, whatever they have learnt. The rest is untouched."""
    owner, old, attribute = stack(model)
    gone = set(layers)
    kept = [number for number in range(len(old)) if number not in gone]
    config = text_config(model)
    grown = _grown(_settings(config), [(number, False) for number in kept])
    _install(owner, attribute, [old[number] for number in kept], config, grown)


def train_only(model: Any, layers: Sequence[int]) -> int:
    """Let nothing but these decoder layers be trained; returns how many numbers that are. Before the optimizer is made.

    With an adapter: train LoRA in these layers (`layers_to_transform`) or, as LLaMA-Pro does, the layers in full.
    """
    _, there, _ = stack(model)
    model.requires_grad_(False)
    for number in layers:
        there[number].requires_grad_(True)
    return sum(parameter.numel() for number in layers for parameter in there[number].parameters())


def _fault(
    model: Any, before: "Tensor", layer: "nn.Module", originals: "Mapping[Tensor, tuple[Tensor, float]]"
) -> str | None:
    """What is wrong with the expanded model, found by trying; None where nothing is."""
    import torch

    if not originals:
        return "the matrices that end its layers are not known"
    try:
        if not torch.equal(before, _logits(model)):
            return "a layer whose outputs are zero still changes what passes through"
        if not _smooth(model, layer, originals):
            return "a small output of a new layer is blown up by what follows it"
        return _differs_from_reloaded(model)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        return f"with them it does not run ({error})"


def _refusal(model: Any, why: str) -> str:
    return f"no layers can be added to a {type(model).__name__}: {why}; leave `expand` out of the recipe for this model"


# --- switching a copy off --------------------------------------------------------------------------------------------


def _switch_off(layer: "nn.Module") -> "dict[Tensor, tuple[Tensor, float]]":
    """Switch the outputs of a layer off; {parameter: (its value before, the number that switches it off)}."""
    import torch

    after = next((pair for pair in _AFTER if all(hasattr(layer, name) for name in pair)), None)
    off: dict[Tensor, tuple[Tensor, float]] = {}
    with torch.no_grad():
        if after:
            for name in after:
                norm = getattr(layer, name)
                for parameter in norm.parameters():
                    off[parameter] = (parameter.detach().clone(), _gain_of_nothing(norm))
        else:
            for name, parameter in layer.named_parameters():
                if _OUTPUTS & set(name.split(".")):
                    off[parameter] = (parameter.detach().clone(), 0.0)
        for parameter, (_, value) in off.items():
            parameter.fill_(value)
    return off


def _gain_of_nothing(norm: Any) -> float:
    """The weight at which a norm gives nothing: -1 where it multiplies by 1 + weight (Gemma), else 0."""
    import torch

    probe = copy.deepcopy(norm)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(-1.0)
        states = torch.linspace(-1.0, 1.0, next(probe.parameters()).numel(), device=next(probe.parameters()).device)
        return -1.0 if not bool(probe(states[None, None].to(next(probe.parameters()).dtype)).any()) else 0.0


def _smooth(model: Any, layer: "nn.Module", originals: "Mapping[Tensor, tuple[Tensor, float]]") -> bool:
    """Whether the layer adds little when it is switched on by a thousandth, measured against switched on wholly."""
    import torch

    def added(share: float) -> float:
        with torch.no_grad():
            for parameter, (value, off) in originals.items():
                parameter.copy_(off + share * (value - off))
        sizes: list[float] = []

        def look(_: Any, given: Any, options: Any, result: Any) -> None:
            states = given[0] if given else options["hidden_states"]
            result = result[0] if isinstance(result, tuple) else result
            sizes.append(float((result - states).float().norm()))

        handle = layer.register_forward_hook(look, with_kwargs=True)
        try:
            _logits(model)
        finally:
            handle.remove()
        return sizes[0]

    whole, little = added(1.0), added(_SMALL)
    added(0.0)
    # bf16 rounds the sum at 0.4 % of what passes through, which is no fault of the layer.
    return little <= 0.1 * whole + (0.0 if next(layer.parameters()).dtype == torch.float32 else 0.01 * whole)


def _logits(model: Any) -> "Tensor":
    """Of a fixed text of the first tokens, in evaluation mode."""
    import torch

    training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = (torch.arange(_PROBE, device=device) * 7 + 3) % rows
    try:
        with torch.no_grad():
            return model(input_ids=ids[None], use_cache=False).logits
    finally:
        model.train(training)


# --- the configuration -----------------------------------------------------------------------------------------------


def _settings(config: Any) -> dict[str, Any]:
    """What the configuration says of single layers, and how many there are."""
    count = config.num_hidden_layers
    found: dict[str, Any] = {"num_hidden_layers": count}
    for name, value in config.to_dict().items():
        if isinstance(value, list | tuple) and (len(value) == count or name in _LISTS_OF_LAYERS):
            if not name.endswith("_token_id") and name != "architectures":
                found[name] = list(value)
    return found


def _grown(settings: Mapping[str, Any], plan: Sequence[tuple[int, bool]]) -> dict[str, Any]:
    """The same for the layers of the plan."""
    grown: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "num_hidden_layers":
            grown[name] = len(plan)
        elif name in _LISTS_OF_LAYERS:
            grown[name] = [place for place, (old, _) in enumerate(plan) if old in value]
        else:
            grown[name] = [value[old] for old, _ in plan]
    return grown


def _install(
    owner: "nn.Module", attribute: str, layers: "Sequence[nn.Module]", config: Any, settings: Mapping[str, Any]
) -> None:
    """Put layers and settings in place, and tell each layer its number."""
    from torch import nn

    for number, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
    setattr(owner, attribute, nn.ModuleList(layers))
    for name, value in settings.items():
        setattr(config, name, value)


def _differs_from_reloaded(model: Any) -> str | None:
    """Build the model anew from its configuration, without memory for weights, and say what differs."""
    import torch

    with torch.device("meta"):
        fresh = type(model)(copy.deepcopy(model.config))
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    differing = sorted(here.keys() ^ there.keys()) or [name for name in here if here[name] != there[name]]
    if differing:
        return f"loaded again it would have another '{differing[0]}'"
    for number, (mine, built) in enumerate(zip(stack(model)[1], stack(fresh)[1], strict=True)):
        for name in (one := _marks(mine)).keys() | (two := _marks(built)).keys():
            if one.get(name) != two.get(name):
                return f"loaded again, layer {number} would have another '{name}'"
    return None


def _marks(layer: "nn.Module") -> dict[str, Any]:
    """Plain settings of a layer and its parts: kind of attention, window, its number."""
    return {
        f"{path}.{name}": value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str)
        and not name.startswith("_")  # what transformers notes while it loads
        and name not in ("training", "gradient_checkpointing")
    }

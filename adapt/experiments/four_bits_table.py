"""A model folder and texts → what holding its weights in NF4 costs in loss, which layers give how much of it back when
they stay whole, and which of them to keep so within a share of the memory (the recipe's `wide`). It trains nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt.costs import NF4_DOUBLE_BYTES
from eval.data.texts import read_texts
from eval.runs.parts import Progress
from eval.runs.run_folder import write_json
from retrieval.errors import MissingError, UsageError

TABLE_JSON, TABLE_MARKDOWN = "four-bits.json", "four-bits.md"
_PIECE = 224
"""Tokens that are read of each text."""
_WIDE_BYTES = 2


def fill_four_bits(
    model: Path, *, texts: Path, tokens: int, share: float, out: Path, progress: Progress
) -> dict[str, Any]:
    """Measure every kind of projection and every layer, on as many `tokens` as are asked for, and then those that were
    chosen together, on as many others. `share` is of the memory that all weights take in 16 bits. Writes four-bits.json
    and four-bits.md to `out`; returns the former.

    Weights are rounded to NF4 and computed with in fp32, so that nothing but the rounding is seen. Raises MissingError
    without bitsandbytes, UsageError for too little text or a share that NF4 itself is more than.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantise = _nf4()
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    choosing, judging = _pieces(texts, tokenizer, tokens)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    linear = {
        name: module
        for name, module in loaded.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    }
    whole = {name: module.weight.detach().clone() for name, module in linear.items()}
    rounded = {name: quantise(weight) for name, weight in whole.items()}

    def loss(wide: Sequence[str], pieces: Sequence[list[int]]) -> float:
        for name, module in linear.items():
            module.weight.data = whole[name] if any(map(_has(name), wide)) else rounded[name]
        return _loss(loaded, pieces)

    everything = [""]
    best, worst = loss(everything, choosing), loss([], choosing)
    sizes = {name: weight.numel() for name, weight in whole.items()}
    candidates = _candidates(list(sizes))
    rows = []
    for number, candidate in enumerate(candidates):
        progress("layers", number, len(candidates))
        found = loss([candidate], choosing)
        rows.append(
            {
                "wide": candidate,
                "weights": sum(size for name, size in sizes.items() if _has(name)(candidate)),
                "gives_back": (worst - found) / (worst - best),
            }
        )
    total = sum(parameter.numel() for parameter in loaded.parameters())
    chosen, held = _chosen(rows, sizes, total, share)
    told = {
        "model": str(model),
        "tokens": sum(map(len, judging)),
        "rows": rows,
        "wide": chosen,
        "held": held,
        "loss": {"whole": loss(everything, judging), "nf4": loss([], judging), "wide": loss(chosen, judging)},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / TABLE_JSON, told)
    (out / TABLE_MARKDOWN).write_text(to_markdown(told), encoding="utf-8")
    return told


def _nf4() -> Callable[[Any], Any]:
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError as error:
        raise MissingError(f"4-bit weights need bitsandbytes: pip install bitsandbytes ({error})") from error

    def through(weight: Any) -> Any:
        packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        return dequantize_4bit(packed, state).to(weight.dtype).reshape(weight.shape)

    return through


def _pieces(texts: Path, tokenizer: Any, tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Beginnings of documents, in turn for choosing and for judging, each so many tokens."""
    found: tuple[list[list[int]], list[list[int]]] = ([], [])
    for number, text in enumerate(read_texts(texts, limit_bytes=64 * tokens, seed=0).documents):
        ids = list(tokenizer(text.text[: 16 * _PIECE], add_special_tokens=False)["input_ids"])[:_PIECE]
        part = found[number % 2]
        if len(ids) > 1 and sum(map(len, part)) < tokens:
            part.append(ids)
    short = min(sum(map(len, part)) for part in found)
    if short < tokens:
        raise UsageError(f"'{texts}' gives {short:,} tokens to choose on and to judge on; {tokens:,} were asked for")
    return found


def _loss(model: Any, pieces: Sequence[list[int]]) -> float:
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for ids in pieces:
            given = torch.tensor([ids], device=next(model.parameters()).device)
            logits = model(input_ids=given).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, given[0, 1:], reduction="sum"))
            count += len(ids) - 1
    return total / count


def _has(name: str) -> Callable[[str], bool]:
    """Whether a word of `wide` means the layer `name`: its end, or a part of it from dot to dot; "" is every layer."""
    return lambda word: not word or f".{word}." in f".{name}."


def _candidates(names: Sequence[str]) -> list[str]:
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    layers = []
    for name in names:
        parts = name.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
        if numbers:
            layers.append(".".join(parts[numbers[0] - 1 : numbers[0] + 1]))
    return kinds + list(dict.fromkeys(layers))


def _chosen(
    rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], total: int, share: float
) -> tuple[list[str], float]:
    """Greedily what gives back most for its weights, and the share of the 16-bit memory that all then take."""
    packed = sum(sizes.values())

    def held(words: Sequence[str]) -> float:
        wide = sum(size for name, size in sizes.items() if any(map(_has(name), words)))
        return ((packed - wide) * NF4_DOUBLE_BYTES + _WIDE_BYTES * (total - packed + wide)) / (_WIDE_BYTES * total)

    chosen: list[str] = []
    if held(chosen) > share:
        raise UsageError(f"all layers in 4 bits are {held(chosen):.0%} of the memory already; ask for a larger share")
    for row in sorted(rows, key=lambda row: row["gives_back"] / row["weights"], reverse=True):
        if row["gives_back"] > 0 and held([*chosen, row["wide"]]) <= share:
            chosen.append(row["wide"])
    return chosen, held(chosen)


def to_markdown(found: Mapping[str, Any]) -> str:
    """What each gives back, the most for its weights first; then the choice."""
    lines = ["| not in 4 bits | M weights | of the loss given back |", "|---|--:|--:|"]
    rows = sorted(found["rows"], key=lambda row: row["gives_back"] / row["weights"], reverse=True)
    lines += [f"| {row['wide']} | {row['weights'] / 1e6:.1f} | {row['gives_back']:.0%} |" for row in rows]
    loss = found["loss"]
    back = (loss["nf4"] - loss["wide"]) / (loss["nf4"] - loss["whole"])
    lines += [
        "",
        f"wide: [{', '.join(found['wide'])}], {found['held']:.1%} of the memory of 16 bits.",
        f"On {found['tokens']:,} other tokens: loss {loss['whole']:.4f} whole, {loss['nf4']:.4f} in NF4, "
        f"{loss['wide']:.4f} so ({back:.0%} given back).",
    ]
    return "\n".join(lines) + "\n"

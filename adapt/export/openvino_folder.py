"""A folder with a causal language model of transformers → a folder as OpenVINO GenAI runs it, with the names of layers
that adapters need and the model's own way to split text.

What optimum-intel does, in its smallest form: a stateful graph whose cache can be reordered by `beam_idx`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from adapt.export.model_folder import read_json_file
from eval.runs.parts import Progress
from retrieval.embedding.model_files import find_model, weights_hash
from retrieval.embedding.no_telemetry import refuse_telemetry
from retrieval.errors import UsageError

BASE = "base.json"
"""Names the model by hash: adapters that were trained on it fit the folder too."""
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def export_openvino(
    folder: Path, out: Path, *, cache: Path, halves: bool = True, progress: Progress = lambda *_: None
) -> None:
    """The model in `folder` as an OpenVINO model in the folder `out`: graph, tokenizer, detokenizer, chat template.
    `halves`: weights in fp16, else in fp32.

    Raises UsageError for a model that OpenVINO cannot take, MissingError or DamagedError where there is none, OSError.
    """
    from eval.models.language_models import load_parts, locate

    progress("loading", 0, 3)
    model, tokenizer, _ = load_parts(locate(str(folder), download=False), cache=cache, device="cpu", precision="fp32")
    progress("tracing", 1, 3)
    try:
        write_graph(model, tokenizer, out, halves=halves)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UsageError(
            f"'{folder}' ({model.config.model_type}) cannot be made an OpenVINO model: {reason}; run it with the local "
            "engine"
        ) from error
    progress("writing", 2, 3)
    for name in _BESIDE:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if isinstance(tokenizer.chat_template, str):
        (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    weights = weights_hash(find_model(str(folder), download=False), cache)
    (out / BASE).write_text(json.dumps({"weights": weights}) + "\n", encoding="utf-8")


def made_of(folder: Path) -> str | None:
    """The hash of the model that an OpenVINO folder was made of, as its adapters know it (see `weights_hash`); None
    where another program made the folder. Raises DamagedError."""
    told = read_json_file(folder / BASE, missing={}).get("weights")
    return told if isinstance(told, str) else None


def write_graph(model: Any, tokenizer: Any, folder: Path, *, halves: bool = False) -> Path:
    """Write graph, tokenizer, detokenizer and config.json of what transformers loaded."""
    refuse_telemetry()
    import openvino as ov
    import torch
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation
    from openvino_tokenizers import convert_tokenizer
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = model.config
    layers = config.num_hidden_layers

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:
            cache = DynamicCache()
            for number in range(layers):
                layer = DynamicLayer()  # `update` would begin with an empty tensor, which OpenVINO cannot join
                layer.keys, layer.values = past[2 * number], past[2 * number + 1]
                layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
                cache.layers.append(layer)
            told = self.inner(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            flat = []
            for layer in told.past_key_values.layers:
                flat += [layer.keys, layer.values]
            return (told.logits, *flat)

    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    example = {
        "input_ids": torch.ones((2, 3), dtype=torch.long),
        "attention_mask": torch.ones((2, 5), dtype=torch.long),
        "position_ids": torch.arange(2, 5).repeat(2, 1),
        "past": [torch.randn(2, heads, 2, width) for _ in range(2 * layers)],
    }
    graph = ov.convert_model(Step().eval(), example_input=example)
    names = ["input_ids", "attention_mask", "position_ids"]
    pasts = [f"past.{number}" for number in range(2 * layers)]
    for port, name in zip(graph.inputs, names + pasts, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(
            ov.PartialShape([-1, heads, -1, width]) if name in pasts else ov.PartialShape([-1, -1])
        )
    presents = [f"present.{number}" for number in range(2 * layers)]
    for port, name in zip(graph.outputs, ["logits", *presents], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    beam = opset13.parameter([-1], ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([beam])
    for name in pasts:
        port = graph.input(name)
        readers = port.get_target_inputs()
        ordered = opset13.gather(port, beam, opset13.constant(0))
        for reader in readers:
            reader.replace_source_output(ordered.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(pasts, presents, strict=True)))
    # The state begins empty, for as many sequences as there are: paged attention looks for this beginning.
    shape = opset13.shape_of(graph.input("input_ids"), output_type="i64")
    batch = opset13.gather(shape, opset13.constant([0]), opset13.constant(0))
    rest = opset13.constant([heads, 0, width], dtype=ov.Type.i64)
    nothing = opset13.broadcast(opset13.constant(0.0, dtype=ov.Type.f32), opset13.concat([batch, rest], axis=0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([nothing])
    graph.validate_nodes_and_infer_types()
    # Where a CPU computes in bf16, logits around 20 would come in steps of an eighth: the head's are kept in fp32,
    # which costs nothing measurable (probabilities on ten prompts .0014 from fp32's instead of .0022).
    graph.output("logits").get_node().input_value(0).get_node().get_rt_info()["precise_0"] = ""
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=halves)
    words, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    ov.save_model(words, folder / "openvino_tokenizer.xml")
    ov.save_model(back, folder / "openvino_detokenizer.xml")
    config.save_pretrained(folder)
    return folder

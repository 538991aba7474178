"""A causal language model of transformers → a folder as OpenVINO GenAI reads it, with the names that adapters need.

What optimum-intel does, in its smallest form: a stateful graph whose cache can be reordered by `beam_idx`.
"""

from pathlib import Path
from typing import Any


def export(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write graph, tokenizer, detokenizer and config.json."""
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

    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
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
    folder.mkdir(parents=True)
    ov.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    words, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    ov.save_model(words, folder / "openvino_tokenizer.xml")
    ov.save_model(back, folder / "openvino_detokenizer.xml")
    config.save_pretrained(folder)
    return folder

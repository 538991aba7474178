"""What a loaded model says of itself, kept beside its converted form so that later loads need neither torch nor it."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`max_tokens` counts special tokens. `tokenizer` is the text of a tokenizer.json, as transformers applies it.

    `unsupported` says why OpenVINO cannot run the model; empty where it can.
    """

    dimension: int
    max_tokens: int
    pooling: str
    pad_id: int
    tokenizer: str
    unsupported: str = ""

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ModelFacts":
        """Inverse of `to_json`."""
        return cls(**json.loads(text))

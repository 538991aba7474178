"""What a collection's vectors were made with, and whether an embedder at hand would make the same."""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from retrieval.embedding.embedder import Embedder, EmbedderFingerprint
from retrieval.embedding.probes import MIN_COSINE, PROBE_VERSION, probe_vectors
from retrieval.errors import MismatchError
from retrieval.splitting import SPLITTER_VERSION, SplitSettings

# Precisions whose vectors may stand beside each other (cosine ≥ .999 on the probes); int8 is a family of its own.
EXACT = frozenset({"fp32", "bf16", "fp16"})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Embedder and splitter of a collection, with the vectors its embedder gave to fixed probe texts.

    The declared part is compared field by field; the probes find what no declaration shows: another back end, changed
    weights under the same name, a lost prefix.
    """

    embedder: EmbedderFingerprint
    splitter: SplitSettings
    splitter_version: str
    probe_version: str
    probes: np.ndarray

    @classmethod
    def of(cls, embedder: Embedder, splitter: SplitSettings) -> "Fingerprint":
        """Measure an embedder."""
        probes = probe_vectors(embedder)
        return cls(embedder.fingerprint, splitter, SPLITTER_VERSION, PROBE_VERSION, probes)

    def to_json(self) -> str:
        """One line of text; the probes as base64 of float32."""
        data = {
            "embedder": self.embedder.to_json(),
            "splitter": asdict(self.splitter),
            "splitter_version": self.splitter_version,
            "probe_version": self.probe_version,
            "probes": base64.b64encode(self.probes.astype("<f4").tobytes()).decode(),
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Inverse of `to_json`."""
        data = json.loads(text)
        embedder = EmbedderFingerprint.from_json(data["embedder"])
        probes = np.frombuffer(base64.b64decode(data["probes"]), dtype="<f4").reshape(-1, embedder.dimension)
        return cls(embedder, SplitSettings(**data["splitter"]), data["splitter_version"], data["probe_version"], probes)

    def describe(self) -> Mapping[str, object]:
        """For `fathom index status`."""
        return {**self.embedder.to_json(), "splitter": asdict(self.splitter)}

    def refuse_other(self, embedder: Embedder, collection: str) -> None:
        """Raise MismatchError, naming what differs and the command that fixes it, unless vectors would agree."""
        differences = []
        for field in fields(EmbedderFingerprint):
            stored, found = getattr(self.embedder, field.name), getattr(embedder.fingerprint, field.name)
            if field.name == "precision" and {stored, found} <= EXACT:
                continue
            # A model may be called by name here and by path there; its weights say whether it is the same.
            if field.name != "model" and stored != found:
                differences.append(f"{field.name} {_short(stored)}, now {_short(found)}")
        if not differences and self.probe_version == PROBE_VERSION:
            cosine = float(np.sum(self.probes * probe_vectors(embedder), axis=1).min())
            if cosine < MIN_COSINE[embedder.fingerprint.precision]:
                differences.append(f"its vectors differ (cosine {cosine:.4f} on the probe texts)")
        if differences:
            raise MismatchError(
                f"the collection '{collection}' was indexed with {self.embedder.model} ({'; '.join(differences)}); "
                f"set that model again, or run `fathom index reembed --collection {collection}` to move the collection "
                "to the present one"
            )


def _short(value: object) -> str:
    text = str(value)
    return f"'{text[:12]}…'" if len(text) > 40 else f"'{text}'"

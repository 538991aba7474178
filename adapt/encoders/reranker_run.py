"""A recipe for a reranker → questions mined, an encoder trained, measured beside the search alone on held-out
questions, calibrated and held against its gates.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from adapt.encoders.calibrating import Scored, crossfitted, expected_error, fit, ndcg
from adapt.encoders.mining import Candidate, Group, Mined, Ranking, mine
from adapt.encoders.pair_card import card
from adapt.encoders.pair_recipe import GATE
from adapt.encoders.pair_result import set_calibration
from adapt.encoders.pair_run import FINISHED, GATED, RESULT, STOPPED, EncoderResult, PairRun
from adapt.encoders.pair_training import Example
from adapt.encoders.questions import load_questions
from eval.figures.statistics import bootstrap
from eval.runs.run_folder import read_json, write_json
from retrieval.errors import UsageError
from retrieval.reranking.pair_folder import RERANKER

MINED, SCORES = "mined", "scores"
DEPTH = 20
"""Hits of a held-out question that are reranked, as in use."""
MINING_VERSION = 1


class RerankerRun(PairRun):
    """See `PairRun`."""

    def go(self) -> EncoderResult:
        """Do what is not done yet. Raises UsageError for data that trains nothing."""
        mined: dict[str, Mined] = {}
        for source in self.recipe.data:
            mined[source] = self._mined(source)
            if self.stop.is_set():
                return self.end(STOPPED)
        self.note(
            data={
                name: {"questions": len(found.groups), "held_out": len(found.rankings), "dropped": dict(found.dropped)}
                for name, found in mined.items()
            }
        )
        groups = [group for found in mined.values() for group in found.groups]
        if not groups:
            raise UsageError("no question of the recipe's data has a passage that answers it; name other data")
        examples = [Example(group.question, group.positive, group.negatives) for group in groups]
        if not self.train(examples, RERANKER, ("relevant",), self.recipe.negatives.each):
            return self.end(STOPPED)
        return self._measure(mined)

    def _mined(self, name: str) -> Mined:
        source = self.recipe.data[name]
        dataset = load_questions(name, source, self.recipe.root, self.recipe.seed)
        said = [
            MINING_VERSION,
            source.model_dump(mode="json"),
            self.recipe.negatives.model_dump(mode="json"),
            self.recipe.held_out,
            self.recipe.seed,
            sorted(dataset.data.values()),
            self.embedder().fingerprint.to_json(),
        ]
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        file = self.folder / MINED / f"{name}.json"
        if file.is_file():
            kept = read_json(file)
            if kept.get("key") == key:
                return _mined_from(kept)
        found = mine(
            dataset,
            self.recipe.negatives,
            held_out=self.recipe.held_out,
            depth=DEPTH,
            embedder=self.embedder(),
            cache=self.cache / "questions",
            progress=lambda what, done, total: self.progress(f"{what} {name}", done, total),
        )
        file.parent.mkdir(exist_ok=True)
        write_json(
            file,
            {
                "key": key,
                "groups": [asdict(group) for group in found.groups],
                "rankings": [asdict(ranking) for ranking in found.rankings],
                "dropped": dict(found.dropped),
            },
        )
        return _mined_from(read_json(file))

    def _measure(self, mined: Mapping[str, Mined]) -> EncoderResult:
        from retrieval.reranking.cross_encoder import load_trained
        from retrieval.reranking.pair_folder import read_facts

        folder = self.folder / RESULT
        facts = set_calibration(folder, read_facts(folder), None, card(self.facts, {}))  # an earlier call's, if any
        reranker = load_trained(folder, device="cpu", threads=0, cache=self.models)
        scored: dict[str, list[Scored]] = {}
        total, done = sum(len(found.rankings) for found in mined.values()), 0
        for name, found in mined.items():
            kept = self._kept_logits(name, found, reranker.described["weights"])
            for number, ranking in enumerate(found.rankings):
                if number == len(kept):
                    kept.append(reranker.logits(ranking.question, [one.text for one in ranking.candidates]))
                scored.setdefault(name, []).append(Scored(ranking, tuple(kept[number])))
                done += 1
                self.progress("scoring held-out questions", done, total)
                if self.stop.is_set():
                    return self.end(STOPPED)
            self._keep_logits(name, found, reranker.described["weights"], kept)
        ours = [
            one
            for name, source in self.recipe.data.items()
            for one in scored.get(name, [])
            if source.calibrate and source.kind != "titles"
        ]
        calibration = fit(ours)
        values = {
            "base": ndcg(ours),
            "logit": ndcg(ours, [one.logits for one in ours]),
            "calibrated": crossfitted(ours),
        }
        figures = {f"nDCG@10 {name}": bootstrap(list(found)) for name, found in values.items()}
        figures["nDCG@10 gain"] = bootstrap(list(values["calibrated"] - values["base"]))
        by_source = {
            name: {"base": float(ndcg(of).mean()), "logit": float(ndcg(of, [one.logits for one in of]).mean())}
            for name, of in scored.items()
        }
        self.note(
            by_source=by_source,
            calibration_error=expected_error(ours, calibration),
        )
        set_calibration(folder, facts, calibration.to_json(), card(self.facts, figures))
        failed = tuple(gate for gate in self.recipe.gates if not _passes(gate, values))
        return self.end(GATED if failed else FINISHED, figures, failed)

    def _kept_logits(self, name: str, found: Mined, weights: Any) -> list[list[float]]:
        """Of an earlier call with the same weights and questions; none otherwise."""
        file = self.folder / SCORES / f"{name}.json"
        kept = read_json(file) if file.is_file() else {}
        return list(kept["logits"]) if kept.get("key") == _key(found, weights) else []

    def _keep_logits(self, name: str, found: Mined, weights: Any, logits: list[list[float]]) -> None:
        (self.folder / SCORES).mkdir(exist_ok=True)
        write_json(self.folder / SCORES / f"{name}.json", {"key": _key(found, weights), "logits": logits})


def _key(found: Mined, weights: Any) -> str:
    said = [weights, [asdict(ranking) for ranking in found.rankings]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _passes(gate: str, values: Mapping[str, np.ndarray]) -> bool:
    match = GATE.fullmatch(gate)
    assert match is not None  # checked with the recipe
    least = float(values["base"].mean()) if match[2] == "base" else float(match[2])
    return float(values["calibrated"].mean()) >= least


def _mined_from(kept: Mapping[str, Any]) -> Mined:
    return Mined(
        [Group(one["question"], one["positive"], tuple(one["negatives"])) for one in kept["groups"]],
        [
            Ranking(one["question"], tuple(Candidate(**each) for each in one["candidates"]), one["grades"])
            for one in kept["rankings"]
        ],
        kept["dropped"],
    )

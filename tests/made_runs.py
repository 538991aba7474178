"""Run folders made by hand, of every kind of part, for tests of what reads runs: small numbers that can be checked."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.runs.executing import read_run
from eval.runs.run_folder import write_json

ENVIRONMENT = {
    "machine": {"system": "Linux x86_64", "processor": "A processor", "cores": 2, "memory_gib": 7.8},
    "versions": {"python": "3.11.9", "fathom-stack": "0.1.0", "numpy": "2.4.6"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
}
PASSAGES = (
    ("guides/style.md", "Style guide", "No line is longer than 79 characters. Docstrings end at 72."),
    ("guides/names.md", "Names", "Function names should be lowercase, with words separated by underscores."),
    ("指南/代码.md", "代码风格指南", "每行最多 79 个字符。文档字符串或注释每行应限制在 72 个字符以内。"),
)
QUESTIONS = (
    ("How long may a line be?", "A line has at most 79 characters [1].", "79 characters", 0, "79 characters"),
    ("How are functions named?", "In lowercase, with underscores [2].", "lowercase", 1, "lowercase"),
    ("每行最多多少个字符？", "每行最多 79 个字符 [3]。", "79 个字符", 2, "79 个字符"),
    ("文档字符串每行最多多少个字符？", "72 个字符 [3]。", "72 个字符", 2, "72 个字符"),
)


def write_run(folder: Path, parts: Mapping[str, Mapping[str, Any]], *, records: bool = True, **manifest: Any) -> Path:
    """A run folder as the runner leaves it. Each part: kind, records, its entry in run.json, extras."""
    folder.mkdir(parents=True)
    facts = {
        name: {
            "kind": part["kind"],
            "settings": part.get("settings", {}),
            "data": part.get("data", {"questions.jsonl": "ab" * 32}),
            "described": part.get("described", f"{len(part['records'])} items of {name}"),
            "items": part.get("items", len(part["records"])),
            "seconds": part.get("seconds", 12.5),
        }
        for name, part in parts.items()
    }
    whole = {
        "name": folder.name,
        "suite": {"name": "smoke", "seed": 0, "parts": {name: fact["settings"] for name, fact in facts.items()}},
        "seed": 0,
        "config_hash": "c0ffee" * 8,
        "environment": ENVIRONMENT,
        "started": "2026-11-22T04:00:00Z",
        "finished": "2026-11-22T04:03:20Z",
        "status": "finished",
        "parts": facts,
        "skipped": {},
        **manifest,
    }
    write_json(folder / "run.json", whole)
    for name, part in parts.items():
        place = folder / "parts" / name
        place.mkdir(parents=True)
        lines = [json.dumps(record, ensure_ascii=True) + "\n" for record in part["records"]]
        (place / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    result = read_run(folder)
    figures = {
        name: part.figures()
        | {"extras": parts[name].get("extras", {}), "seconds": part.seconds or 12.5}
        | ({"error": parts[name]["error"]} if parts[name].get("error") else {})
        for name, part in result.parts.items()
    }
    write_json(folder / "metrics.json", {"name": folder.name, "seed": 0, "parts": figures})
    return folder


def retrieval(
    n: int = 40, *, skill: float = 0.1, seed: int = 1, stages: Sequence[str] = ("lexical", "dense")
) -> dict[str, Any]:
    """Queries with two stages and the whole, which is better than its stages by about `skill`."""
    draw = random.Random(seed)
    records = []
    for i in range(n):
        base = draw.random()
        figures = {"lexical": base, "dense": min(1.0, max(0.0, base + draw.uniform(-0.4, 0.4)))}
        figures[""] = min(1.0, max(figures.values()) * 0.8 + skill + draw.uniform(-0.05, 0.05))
        metrics = {}
        for stage in (*stages, ""):
            value = figures[stage]
            for measure, share in (("nDCG@10", 1.0), ("R@100", 1.1), ("RR@10", 0.9)):
                metrics[f"{stage}:{measure}" if stage else measure] = round(min(1.0, value * share), 4)
        text = QUESTIONS[i % len(QUESTIONS)][0]
        records.append(
            {
                "id": f"q{i}",
                "text": f"{text} ({i})",
                "cluster": None,
                "metrics": metrics,
                "timings": {
                    "lexical": 1.0 + draw.random(),
                    "dense": 6.0 + 4 * draw.random(),
                    "total": 9 + 5 * draw.random(),
                },
                "error": None,
                "ranking": [f"d{i}-{rank}" for rank in range(30)],
                "relevant": {f"d{i}-0": 1},
            }
        )
    settings = {"dataset": "scifact", "pipeline": "hybrid", "k": 100}
    return {"kind": "retrieval", "records": records, "settings": settings, "data": {"corpus.jsonl": "cd" * 32}}


def answers(n: int = 12, *, right: float = 0.7, seed: int = 2) -> dict[str, Any]:
    """Questions in English and Chinese over three passages, some wrong, some refused, one that ended in an error."""
    draw = random.Random(seed)
    records: list[dict[str, Any]] = []
    for i in range(n):
        text, answer, gold, at, quote = QUESTIONS[i % len(QUESTIONS)]
        record: dict[str, Any] = {"id": f"a{i}", "text": text if i < 4 else f"{text} #{i}", "cluster": PASSAGES[at][0]}
        if i == n - 1 and n > 4:
            records.append({**record, "metrics": {}, "timings": {}, "error": "the engine did not answer within 60 s"})
            continue
        good, answerable = draw.random() < right, i % 5 != 4
        refused = not answerable and good
        passages = [
            {
                "n": place,
                "document": uri,
                "title": title,
                "page": None,
                "start": 100,
                "end": 100 + len(words),
                "text": words,
            }
            for place, (uri, title, words) in enumerate(PASSAGES, 1)
        ]
        start = 100 + PASSAGES[at][2].index(quote)
        citation = {
            "n": at + 1,
            "document": PASSAGES[at][0],
            "start": start,
            "end": start + len(quote),
            "quote": quote,
            "supported": "yes" if good else "no",
        }
        record |= {
            "metrics": {
                "F1": None if refused else 1.0 if good else round(draw.random() * 0.4, 3),
                "EM": None if refused else float(good),
                "citation_precision": [float(good), 1.0],
                "citation_recall": [float(good), 1.0],
                "refusal_recall": [float(refused), float(not answerable)],
                "over_refusal": [0.0, float(answerable)],
            },
            "timings": {
                "search": 8 + draw.random(),
                "first_token": 120 + 40 * draw.random(),
                "total": 900 * draw.random() + 300,
            },
            "error": None,
            "answer": "The documents do not say." if refused else answer if good else "It is 100 [1].",
            "refused": refused,
            "golds": [gold],
            "answerable": answerable,
            "passages": passages,
            "citations": [] if refused else [citation],
            "confidence": round(draw.random(), 3),
        }
        records.append(record)
    curve = [round(0.05 + 0.3 * (i / 20) ** 2, 4) for i in range(1, 21)]
    risk = {
        "n": 20,
        "AURC": 0.153,
        "AURC_interval": [0.11, 0.2],
        "E-AURC": 0.02,
        "coverage": [i / 20 for i in range(1, 21)],
        "risk": curve,
        "thresholds": [{"risk": 0.1, "confidence": 0.62, "coverage": 0.4}],
    }
    extras = {"risk_coverage": risk, "prompt": "answer-3", "model": "scripted"}
    return {
        "kind": "answers",
        "records": records,
        "extras": extras,
        "settings": {"questions": "q.jsonl", "engine": None},
    }


def every_kind() -> dict[str, dict[str, Any]]:
    """One part of each kind, as small as it can be while saying something."""
    judged = {
        "kind": "judge",
        "records": [
            {
                "id": f"j{i}",
                "text": QUESTIONS[i % 4][0],
                "cluster": None,
                "error": None,
                "timings": {"judge": 40.0 + i},
                "metrics": {
                    "faithfulness": [i % 3, 2],
                    "answer_relevance": 0.5 + i / 40,
                    "parsed": [2, 2],
                    "context_recall": None,
                },
                "answer": QUESTIONS[i % 4][1],
                "verdicts": [{"claim": "a", "supported": True}],
            }
            for i in range(8)
        ],
        "extras": {
            "agreement": {
                "faithfulness": {
                    "n": 40,
                    "classes": ["no", "yes"],
                    "table": [[12, 3], [2, 23]],
                    "agreement": 0.875,
                    "kappa": 0.73,
                    "interval": [0.5, 0.93],
                    "ac1": 0.77,
                    "precision": {"no": 0.86, "yes": 0.88},
                    "recall": {"no": 0.8, "yes": 0.92},
                }
            },
            "prompt_hash": "beef" * 8,
        },
    }
    rewrites = {
        "kind": "rewrites",
        "records": [
            {
                "id": f"r{i}",
                "text": "它呢？" if i % 2 else "And for comments?",
                "cluster": f"talk{i // 2}",
                "error": None,
                "metrics": {
                    "rouge1_recall": 0.6 + i / 20,
                    "nDCG@10_raw": 0.2,
                    "nDCG@10_rewritten": 0.5,
                    "nDCG@10_human": 0.6,
                },
                "timings": {"rewrite": 3.0},
                "history": [{"role": "user", "text": "每行最多多少个字符？"}],
                "rewritten": "How long may a comment be?",
                "human": "How long may a comment line be?",
            }
            for i in range(6)
        ],
        "settings": {"rewriter": "previous"},
    }
    language = {
        "kind": "language",
        "records": [
            {
                "id": f"t{i}",
                "text": "No line is longer …",
                "cluster": None,
                "error": None,
                "timings": {"score": 50.0},
                "metrics": {
                    "bits_per_byte": [900 + 10 * i, 1000],
                    "tokens_per_byte": [250, 1000],
                    "perplexity": [1, 0],
                },
            }
            for i in range(5)
        ],
        "settings": {"model": "models/base"},
        "extras": {
            "forgetting": [
                {"text": "domain", "base": 1.21, "adapted": 0.95, "difference": -0.26},
                {"text": "general", "base": 0.97, "adapted": 0.98, "difference": 0.01},
            ]
        },
    }
    choices = {
        "kind": "choices",
        "records": [
            {
                "id": f"c{i}",
                "text": QUESTIONS[i % 4][0],
                "cluster": None,
                "error": None,
                "timings": {"score": 20.0},
                "metrics": {"choice_accuracy": float(i % 2)},
                "choices": ["79", "100"],
                "chosen": "79",
                "correct": "79",
            }
            for i in range(10)
        ],
    }
    speed = {
        "kind": "speed",
        "records": [
            {"id": "chat", "text": "chat", "cluster": None, "error": None, "timings": {}, "metrics": {"cpu_ratio": 3.1}}
        ],
        "extras": {
            "load": [
                {
                    "users": users,
                    "first_token_p50_ms": 80 + 9 * users,
                    "first_token_p99_ms": 120 + 30 * users,
                    "requests_per_second": 10 * users / (users + 4),
                    "errors": 0,
                }
                for users in (1, 5, 10, 25, 50)
            ]
        },
    }
    return {
        "scifact": retrieval(),
        "问答": answers(),
        "judged": judged,
        "rewrites": rewrites,
        "language": language,
        "choices": choices,
        "speed": speed,
    }


def hostile_parts(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every place of a run that text can reach holds one of `texts`, in turn."""
    records = []
    for i, text in enumerate(texts):
        other = texts[(i + 1) % len(texts)]
        passages = [{"n": 1, "document": text, "title": other, "start": 0, "end": len(text), "text": text}]
        records.append(
            {
                "id": f"{i} {text}",
                "text": text,
                "cluster": text,
                "error": other if i % 7 == 3 else None,
                "metrics": {} if i % 7 == 3 else {"F1": (i % 11) / 10, text[:40] or "empty": 0.5},
                "timings": {text[:20] or "t": 1.0},
                "answer": f"{text} [1] {other}",
                "golds": [text, {"text": other}],
                "passages": passages,
                "citations": [
                    {"n": 1, "start": 0, "end": max(1, len(text) // 2), "quote": text[: max(1, len(text) // 2)]}
                ],
                "refused": i % 5 == 0,
                text[:30] or "key": other,
                "history": [{"role": text, "text": other}],
                "rankings": {text: [other]},
                "ranking": [text, other],
            }
        )
    forms = [_extra(i, text) for i, text in enumerate(texts[:40])]
    extras = {f"{text[:60]}{i}": form for i, (text, form) in enumerate(zip(texts, forms, strict=False))}
    return {
        "part": {
            "kind": "answers",
            "records": records,
            "extras": extras,
            "settings": {text: text for text in texts[:50]},
            "data": {text: text for text in texts[:50]},
            "described": " ".join(texts)[:5000],
            "error": texts[0],
        }
    }


def _extra(i: int, text: str) -> Any:
    rows = [{text: text, "users": 1, "a_ms": 1.0}, {text: 2, "users": 2, "a_ms": 2.0}]
    confusion = {"classes": [text, "b"], "table": [[1, text], [0, 2]], "kappa": text}
    curve = {"coverage": [0.5, 1, text], "risk": [0, 0.2, text], "AURC": text}
    return [text, rows, {text: {text: text}}, confusion, curve][i % 5]

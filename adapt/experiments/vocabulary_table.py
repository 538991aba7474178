"""Texts and a model → what 100 to 1,000 domain tokens save on held-out documents, and bits per byte with them.

`python -m adapt.experiments.vocabulary_table --texts peps.jsonl.gz --out FOLDER` writes vocabulary.json and
vocabulary.md there and says nothing. It knows no recipe.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapt.corpus.texts import TrainingText
from adapt.recipe import Vocabulary, Warming
from adapt.training.bases import base_folder
from adapt.vocabulary import tokenizer_file
from adapt.vocabulary.byte_level import byte_level
from adapt.vocabulary.extending import extend
from adapt.vocabulary.terms import candidates, whole
from eval.data.texts import read_texts
from eval.language import LanguagePart
from eval.models.language_models import load_language_model
from eval.runs.parts import PartFolder, Progress, Tools
from eval.runs.run_folder import write_json
from retrieval.errors import FathomError, UsageError

HELD_OUT = 0.05
HELD_OUT_GENERAL = 0.3
"""More, as general texts are few here and only replayed."""
TABLE_JSON, TABLE_MARKDOWN = "vocabulary.json", "vocabulary.md"
_LOG = logging.getLogger(__name__)
Part = Literal["train", "held_out"]


@dataclass(frozen=True)
class _Texts:
    """Documents in memory as the stage wants a corpus; which are held out is decided by the hash of each one's id."""

    name: str
    sha256: str
    train: tuple[TrainingText, ...]
    held_out: tuple[TrainingText, ...]

    @classmethod
    def read(cls, path: Path, held_out: float = HELD_OUT) -> "_Texts":
        found = read_texts(path)
        parts: dict[bool, list[TrainingText]] = {True: [], False: []}
        for document in found.documents:
            share = int(hashlib.sha256(document.id.encode()).hexdigest()[:8], 16) / 2**32
            parts[share < held_out].append(TrainingText(document.id, document.text))
        if not parts[True] or not parts[False]:
            raise UsageError(f"'{path}' has too few documents ({len(found.documents)}) to hold some out; give more")
        return cls(path.name, found.sha256, tuple(parts[False]), tuple(parts[True]))

    def texts(self, part: Part = "train") -> Iterator[TrainingText]:
        return iter(self.train if part == "train" else self.held_out)

    def count(self, part: Part) -> int:
        return len(self.train if part == "train" else self.held_out)

    def bytes(self, part: Part) -> int:
        return sum(len(text.text.encode()) for text in self.texts(part))


def savings(
    texts: _Texts, base: Path, wanted: Iterable[int], settings: Vocabulary, *, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """For each number of tokens: how many were worth adding, and the share of tokens saved on both parts."""
    old = tokenizer_file.load(base)
    rows = []
    for number in wanted:
        chosen = settings.model_copy(update={"tokens": number})
        found = candidates(texts.texts(), old, chosen, model=base, progress=progress, total=texts.count("train"))
        tokenizer_file.write(tokenizer_file.extended(byte_level(old), found.merges, found.pre_tokenizer), base, folder)
        new = tokenizer_file.load(folder)
        check = tokenizer_file.compare(old, new, (whole(text) for text in texts.texts("held_out")))
        rows.append(
            {
                "wanted": number,
                "added": len(found.terms),
                "saving_train": found.saving,
                "saving_held_out": check.saving,
                "longer": check.longer,
                "least_saving": found.terms[-1].saving if found.terms else None,
                "phrases": found.facts()["phrases"],
                "steps_only": sum(term.stands == 0 for term in found.terms),
            }
        )
    return rows


def bits_per_byte(
    texts: _Texts,
    base: Path,
    settings: Vocabulary,
    *,
    seed: int,
    limit_bytes: int,
    folder: Path,
    cache: Path,
    progress: Progress,
    general: _Texts | None = None,
    replay: bool = False,
) -> list[dict[str, Any]]:
    """Of the base, with mean rows, and after the warm-up that the settings ask for, on the held-out documents, of
    `general` too, which is shown in the warm-up with `replay`."""
    files = {}
    for name, those in {"held_out": texts, "general": general}.items():
        if those is not None:
            files[name] = folder / f"{name}.jsonl"
            lines = (json.dumps({"id": text.id, "text": whole(text)}) + "\n" for text in those.texts("held_out"))
            files[name].write_text("".join(lines), encoding="utf-8")
    tools = Tools(cache=cache, language_model=lambda name: load_language_model(name, cache=cache))

    def measured(label: str, model: Path) -> dict[str, Any]:
        # Named after the model's bytes, so that figures of another warm-up are not taken for this one's.
        config = (model / "model.safetensors", model / "tokenizer.json")
        mark = hashlib.sha256("".join(_digest(path) for path in config).encode()).hexdigest()[:16]
        kept = PartFolder(folder / "measured" / f"{label}-{mark}-{limit_bytes}")
        try:
            part = LanguagePart(texts=files, model=str(model), limit_bytes=limit_bytes, seed=seed)
            part.prepare(tools).run(kept, progress)
            records = list(kept.done().values())
        finally:
            kept.close()
        found: dict[str, Any] = {"rows": label}
        for name in files:
            pairs = [record["metrics"] for record in records if record["label"] == name]
            for metric in ("bits_per_byte", "tokens_per_byte"):
                key = metric if len(files) == 1 else f"{metric}_{name}"  # as LanguagePart names them
                sums = [sum(pair[key][side] for pair in pairs) for side in (0, 1)]
                found[metric if name == "held_out" else key] = sums[0] / sums[1]
        return found

    found = [measured("base", base)]
    stages = [("mean of the pieces", settings.model_copy(update={"warm": None}))]
    if settings.warm is not None:
        stages.append(("after warm-up", settings))
    for label, chosen in stages:
        place = folder / ("mean" if chosen.warm is None else "warmed")
        shown = general if replay and chosen.warm is not None else None
        model = extend(base, texts, chosen, folder=place, seed=seed, progress=progress, replay=shown)
        row = measured(label, model)
        row["change"] = row["bits_per_byte"] / found[0]["bits_per_byte"] - 1
        if general is not None:
            row["change_general"] = row["bits_per_byte_general"] / found[0]["bits_per_byte_general"] - 1
        found.append(row)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_markdown(found: Mapping[str, Any]) -> str:
    """Both tables."""
    lines = [
        f"{found['texts']}: {found['train']:,} documents, {found['held_out']:,} held out; {found['model']}",
        "",
        "| tokens wanted | added | phrases | fewer tokens, trained on | fewer tokens, held out | longer texts |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['wanted']:,} | {row['added']:,} | {row['phrases']:,} | {row['saving_train']:.2%} "
        f"| {row['saving_held_out']:.2%} | {row['longer']} |"
        for row in found["savings"]
    ]
    if found["bits_per_byte"]:
        both = "bits_per_byte_general" in found["bits_per_byte"][0]
        lines += ["", "| rows of the new tokens | bits/byte, held out | change | tokens/byte |", "|---|---:|---:|---:|"]
        if both:
            lines[-2:] = [lines[-2] + " general bits/byte | change |", lines[-1] + "---:|---:|"]
        for row in found["bits_per_byte"]:
            line = f"| {row['rows']} | {row['bits_per_byte']:.4f} | {row.get('change', 0.0):+.2%} "
            line += f"| {row['tokens_per_byte']:.4f} |"
            if both:
                line += f" {row['bits_per_byte_general']:.4f} | {row.get('change_general', 0.0):+.2%} |"
            lines.append(line)
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> Path:
    """The command; returns vocabulary.md. Raises FathomError, SystemExit for words it does not know."""
    options = _options().parse_args(words)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    cache = options.cache or out / "cache"
    base = base_folder(options.model, cache=cache)
    texts = _Texts.read(options.texts)
    settings = Vocabulary(
        least_saving=options.least_saving, initialise=options.initialise, words_at_most=options.words_at_most
    )
    rows = savings(texts, base, options.tokens, settings, folder=out / "tokenizer", progress=_log_progress)
    figures: list[dict[str, Any]] = []
    if options.measure is not None:
        changes: dict[str, Any] = {"tokens": options.measure, "warm": None}
        if options.warm_tokens:
            share = options.replay_share
            changes["warm"] = Warming(tokens=options.warm_tokens, lr=options.lr, replay_share=share)
        changes["block"], changes["batch_tokens"] = options.block, options.batch_tokens
        figures = bits_per_byte(
            texts,
            base,
            settings.model_copy(update=changes),
            seed=options.seed,
            limit_bytes=options.limit_bytes,
            folder=out,
            cache=cache,
            progress=_log_progress,
            general=_Texts.read(options.general, HELD_OUT_GENERAL) if options.general else None,
            replay=options.replay_share > 0,
        )
    found = {
        "texts": str(options.texts),
        "train": texts.count("train"),
        "held_out": texts.count("held_out"),
        "model": options.model,
        "options": {name: str(value) for name, value in vars(options).items()},
        "savings": rows,
        "bits_per_byte": figures,
    }
    write_json(out / TABLE_JSON, found)
    (out / TABLE_MARKDOWN).write_text(to_markdown(found), encoding="utf-8")
    return out / TABLE_MARKDOWN


def _options() -> argparse.ArgumentParser:
    usual, warming = Vocabulary(), Warming()
    parser = argparse.ArgumentParser(prog="python -m adapt.experiments.vocabulary_table", description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="a file or folder; rows.jsonl.gz#field names a field")
    parser.add_argument("--out", type=Path, required=True, help="folder for both tables; what is done there is kept")
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--tokens", type=_count, nargs="+", default=[100, 250, 500, 1000])
    parser.add_argument("--least-saving", type=float, default=0.0, help="share of the tokens that a token must save")
    parser.add_argument("--words-at-most", type=_count, default=usual.words_at_most, help="words of one token")
    parser.add_argument("--measure", type=_count, help="measure bits per byte with so many tokens")
    parser.add_argument("--warm-tokens", type=int, default=warming.tokens, help="0 for no warm-up")
    parser.add_argument("--general", type=Path, help="texts of another kind, of which bits per byte are measured too")
    parser.add_argument(
        "--replay-share",
        type=float,
        default=0.0,
        help="of the warm-up's tokens that are of --general's other documents",
    )
    parser.add_argument("--lr", type=float, default=warming.lr)
    parser.add_argument("--initialise", choices=("mean", "distil"), default=usual.initialise)
    parser.add_argument("--block", type=_count, default=usual.block)
    parser.add_argument("--batch-tokens", type=_count, default=usual.batch_tokens)
    parser.add_argument("--limit-bytes", type=_count, default=60_000, help="of held-out text to measure on, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="where the base is unpacked; in --out by default")
    return parser


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no whole number from 1 on")
    return int(word)


def _log_progress(stage: str, done: int, total: int) -> None:
    _LOG.info("%s %d/%d", stage, done, total)


if __name__ == "__main__":
    try:
        main()
    except FathomError as error:
        raise SystemExit(str(error)) from error

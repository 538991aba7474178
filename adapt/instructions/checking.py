"""A file of examples → the file that is fit to be learnt from, and a report of what was dropped or changed and why.

In this order: form, rules about single examples, questions of evaluations, masks, exact repetition, near repetition,
repetition in meaning, sample. It knows no command.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.corpus.decontamination import Evaluations
from adapt.corpus.duplicates import NearDuplicates, content_key, jaccard
from adapt.corpus.languages import require_known
from adapt.corpus.rows import numbered_rows
from adapt.instructions.example import Example, ExampleFault, example_of, messages_id, require_name, write_examples
from adapt.instructions.filters import ALWAYS, REASONS, Limits, fault
from adapt.instructions.likeness import Sampling, answered, asked, sampled, similar, vectors_of
from adapt.instructions.masking import Masker, masked_example
from adapt.instructions.private_data import REGIONS, require_regions
from adapt.recipe import Decontamination, Source
from eval.runs.parts import Progress
from eval.runs.run_folder import now, read_json, write_json
from retrieval.embedding.stored import file_hash
from retrieval.errors import DamagedError, FathomError, ReadingError, UsageError

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

CODE_VERSION = 1
"""Changes when the same examples and settings give another file."""
EXAMPLES = 5
_SHOWN = 160
LEAST_SIMILAR = 0.5
WHY = {
    **REASONS,
    "form": "is no example",
    "evaluation": "holds a question of an evaluation",
    "exact": "is word for word an earlier one",
    "near": "shares most of its words with an earlier one, and so does its answer",
    "similar": "asks and answers in meaning what an earlier one does",
    "sample": "was not drawn",
}
SKIPPABLE = (*ALWAYS, "mask", "near", "similar")


@dataclass(frozen=True)
class Checks:
    """What is looked for. Raises UsageError for what cannot be."""

    limits: Limits = field(default_factory=Limits)
    against: tuple[Path, ...] = ()
    """Files of evaluation questions, as a recipe's `decontaminate.against`."""
    words: int = field(default_factory=lambda: Decontamination().words)
    mask: bool = True
    regions: tuple[str, ...] = REGIONS
    near: float | None = field(default_factory=lambda: Source(path="-").near_duplicates)
    """Jaccard similarity of word 5-grams from which on an example repeats an earlier one; None keeps them."""
    similar: float | None = 0.95
    """Cosine of the questions' vectors, and of the answers', from which on it does so in meaning; None keeps them."""
    sample: int | None = None
    by: Sampling = "clusters"

    def __post_init__(self) -> None:
        if self.similar is not None and not LEAST_SIMILAR <= self.similar <= 1:
            raise UsageError(f"similar is {self.similar:g}; give a cosine between {LEAST_SIMILAR:g} and 1")
        if self.near is not None and not 0 < self.near <= 1:
            raise UsageError(f"near is {self.near:g}; give a share of words between 0.3 and 1")
        if self.by not in ("clusters", "k-centre"):
            raise UsageError(f"a sample is drawn by 'clusters' or 'k-centre', not by '{self.by[:40]}'")
        if self.sample is not None and self.sample < 1:
            raise UsageError(f"a sample of {self.sample} examples is none; give a number from 1")
        wrong = self.limits.skip - set(ALWAYS)
        if wrong:
            raise UsageError(f"there is no check '{min(wrong)[:40]}' to skip; known are {', '.join(SKIPPABLE)}")
        require_known(self.limits.languages)
        if self.mask:
            require_regions(self.regions)

    @property
    def needs_vectors(self) -> bool:
        """Whether an embedding model will be asked."""
        return self.similar is not None or self.sample is not None

    def as_json(self) -> dict[str, Any]:
        """For the report: as JSON gives it back."""
        found = asdict(self)
        found["against"] = [str(path) for path in self.against]
        found["limits"]["skip"] = sorted(self.limits.skip)
        return dict(json.loads(json.dumps(found)))


@dataclass
class _Kept:
    number: int
    example: Example


class _Report:
    """Counts of what was dropped and changed, with up to five examples of each, masked."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.masks: Counter[str] = Counter()
        self.masked: list[dict[str, Any]] = []

    def drop(self, reason: str, number: int, detail: str, example: Example | None = None) -> None:
        self.dropped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            entry: dict[str, Any] = {"row": number, "detail": self._plain(detail)}
            if example is not None:
                entry |= {"id": example.id, "text": self._plain(asked(example))}
            shown.append(entry)

    def mask(self, number: int, example: Example, counts: Counter[str]) -> None:
        self.masks += counts
        if len(self.masked) < EXAMPLES:
            text = next(m.content for m in example.messages if any(f"[{kind}_" in m.content for kind in counts))
            at = min(text.find(f"[{kind}_") for kind in counts if f"[{kind}_" in text)
            entry = {"row": number, "id": example.id, "text": text[max(0, at - _SHOWN // 2) :][:_SHOWN]}
            self.masked.append(entry)

    def _plain(self, text: str) -> str:
        """Of a report people send around; what is private in it must not be the one thing that is left of it."""
        short = text[: _SHOWN * 4]
        return (Masker(self._checks.regions).masked(short) if self._checks.mask else short)[:_SHOWN]


def report_of(out: Path) -> Path:
    """Where the report of a checked file lies: beside it."""
    return out.with_name(out.name.removesuffix(".gz").removesuffix(".jsonl") + ".check.json")


def checked_before(path: Path, out: Path, checks: Checks) -> dict[str, Any] | None:
    """The report of an earlier run over the same file with the same settings, if what it wrote is still there."""
    report = report_of(out)
    if not (out.is_file() and report.is_file()):
        return None
    try:
        found = read_json(report)
    except DamagedError:
        return None
    same = found.get("key") == _key(path, checks) and found.get("sha256") == file_hash(out)
    return found if same else None


def check(
    path: Path,
    checks: Checks,
    *,
    out: Path | None,
    embedder: Callable[[], "Embedder"],
    cache: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Check a file of examples, write what is kept to `out` (None: nowhere) and the report beside it; the report.

    Vectors are kept in `cache`, so that a run which was killed goes on. Raises UsageError, ReadingError for a file that
    cannot be read, FathomError where nothing is left or it cannot be written.
    """
    require_name(path)
    evaluations = Evaluations(checks.against, checks.words) if checks.against else None
    report = _Report(checks)
    key = _key(path, checks)
    kept, rows = _singly(path, checks, evaluations, report, progress)
    if checks.near is not None:
        kept = _without_near(kept, checks.near, report, progress)
    model = None
    if checks.needs_vectors and kept:
        loaded = embedder()
        model = loaded.fingerprint.to_json()
        kept = _by_vectors(kept, checks, loaded, cache, report, progress)
    if not kept:
        if not report.dropped:
            raise FathomError(f"'{path.name}' holds no example")
        reason, count = report.dropped.most_common(1)[0]
        row = report.examples[reason][0]
        such = f" (row {row['row']}: {row['detail']})" if row["detail"] else f" (as in row {row['row']})"
        raise FathomError(f"none of {rows:,} examples is left; {count:,} of them: {WHY[reason]}{such}")
    result: dict[str, Any] = {
        "key": key,
        "checked": now(),
        "read": {"file": path.name, "sha256": file_hash(path), "rows": rows},
        "kept": len(kept),
        "dropped": {
            reason: {"count": count, "why": WHY[reason], "examples": report.examples[reason]}
            for reason, count in report.dropped.most_common()
        },
        "masked": {"places": dict(report.masks), "examples": report.masked},
        "evaluations": None
        if evaluations is None
        else {"files": [file.name for file in checks.against], "texts": evaluations.items},
        "settings": checks.as_json(),
        "embedder": model,
        "sha256": None,
    }
    if out is not None:
        write_examples(out, (one.example for one in kept))
        result["sha256"] = file_hash(out)
        try:
            write_json(report_of(out), result)
        except OSError as error:
            raise FathomError(f"'{report_of(out)}' cannot be written ({error.strerror or error})") from error
    return result


def _key(path: Path, checks: Checks) -> str:
    """Changes with whatever decides the result."""
    try:
        facts = {
            "file": file_hash(path),
            "against": [file_hash(file) for file in checks.against if file.is_file()],
            "settings": checks.as_json(),
            "version": CODE_VERSION,
        }
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read: {error.strerror or error}.") from error
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _singly(
    path: Path, checks: Checks, evaluations: Evaluations | None, report: _Report, progress: Progress
) -> tuple[list[_Kept], int]:
    """What each example says about itself, then exact repetition; those that pass, and how many rows there were."""
    kept: list[_Kept] = []
    seen: set[bytes] = set()
    rows = 0
    for number, found in _rows(path):
        rows += 1
        if rows % 64 == 0:
            progress("checking", rows, 0)
        if isinstance(found, ExampleFault):
            report.drop("form", number, found.message)
            continue
        broken = fault(found, checks.limits)
        if broken is not None:
            report.drop(broken[0], number, broken[1], found)
            continue
        shared = evaluations.overlap(_said(found)) if evaluations is not None else None
        if shared is not None:
            report.drop("evaluation", number, f"{shared.file}, {shared.item}: {shared.text}", found)
            continue
        example = found
        if checks.mask:
            example, counts = masked_example(found, checks.regions)
            if counts:
                report.mask(number, example, counts)
        key = content_key("\n".join(f"{message.role}: {message.content}" for message in example.messages))
        if key in seen:
            report.drop("exact", number, "", example)
            continue
        seen.add(key)
        # Whoever made the file may have given any id, or changed a message and left it.
        kept.append(_Kept(number, replace(example, id=messages_id(example.messages))))
    return kept, rows


def _rows(path: Path) -> Iterator[tuple[int, Example | ExampleFault]]:
    """Examples and what is none, in order."""
    wrong: list[tuple[int, ExampleFault]] = []

    def problem(number: int, reason: str, message: str) -> None:
        wrong.append((number, ExampleFault(reason, message)))

    def lossy(places: int) -> None:
        raise ReadingError(str(path), "encoding", f"is not UTF-8 in {places:,} places; save it as UTF-8.")

    for number, row in numbered_rows(path.resolve(), None, problem, lossy):
        yield from wrong
        wrong.clear()
        try:
            yield number, example_of(row)
        except ExampleFault as found:
            yield number, found
    yield from wrong


def _said(example: Example) -> str:
    """What both sides say, without numbered passages."""
    answers = [message.content for message in example.messages if message.role == "assistant"]
    return "\n\n".join([asked(example), *answers])


def _without_near(kept: list[_Kept], threshold: float, report: _Report, progress: Progress) -> list[_Kept]:
    """Both the whole and the last answer must be near: questions about one context share most of their words, and
    conversations that go different ways share their beginning."""

    def text_of(place: int) -> str:
        return _said(kept[place].example)

    with tempfile.TemporaryDirectory(prefix="fathom-") as folder:
        near = NearDuplicates(threshold, Path(folder))
        try:
            for place in range(len(kept)):
                near.add(text_of(place))
            pairs = near.find(text_of, progress)
            gone = set()
            for place, (other, likeness) in pairs.items():
                one, two = (near.shingles(answered(kept[at].example)) for at in (place, other))
                same = answered(kept[place].example).strip() == answered(kept[other].example).strip()
                if same or jaccard(one, two) >= threshold:
                    gone.add(place)
                    report.drop(
                        "near", kept[place].number, f"{likeness:.0%} of row {kept[other].number:,}", kept[place].example
                    )
        finally:
            near.close()
    return [one for place, one in enumerate(kept) if place not in gone]


def _by_vectors(
    kept: list[_Kept], checks: Checks, embedder: "Embedder", cache: Path, report: _Report, progress: Progress
) -> list[_Kept]:
    vectors = vectors_of([one.example for one in kept], embedder, cache, progress)
    places = list(range(len(kept)))
    if checks.similar is not None:
        pairs = similar(vectors, checks.similar, progress)
        for place, (other, cosine) in pairs.items():
            report.drop(
                "similar", kept[place].number, f"{cosine:.3f} to row {kept[other].number:,}", kept[place].example
            )
        places = [place for place in places if place not in pairs]
    if checks.sample is not None:
        drawn = set(sampled(vectors.asked[places], checks.sample, checks.by, progress))
        for at, place in enumerate(places):
            if at not in drawn:
                report.drop("sample", kept[place].number, "", kept[place].example)
        places = [place for at, place in enumerate(places) if at in drawn]
    return [kept[place] for place in places]


def described(report: dict[str, Any]) -> list[str]:
    """The report in sentences, for people."""
    lines = [f"{report['kept']:,} of {report['read']['rows']:,} examples kept."]
    for found in report["dropped"].values():
        line = f"Dropped {found['count']:,}: it {found['why']}"
        if found["examples"]:
            first = found["examples"][0]
            detail = f" ({first['detail']})" if first["detail"] else ""
            text = f": {first['text'][:60]!r}" if first.get("text") else ""
            line += f"; such as row {first['row']:,}{detail}{text}"
        lines.append(line + ".")
    places = report["masked"]["places"]
    if places:
        lines.append("Masked " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(places.items())) + ".")
    return lines


def require_skippable(names: Sequence[str]) -> None:
    """Raises UsageError for a check that cannot be skipped."""
    for name in names:
        if name not in SKIPPABLE:
            raise UsageError(f"there is no check '{name[:40]}' to skip; known are {', '.join(SKIPPABLE)}")

"""The user's own folder, collection and questions → passages a second, milliseconds of each stage of a search."""

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.runs.parts import PartFolder, Progress, Record
from eval.runs.running import run_items
from eval.speed.measuring import median, percentile
from retrieval.errors import FathomError, ReadingError, UsageError

if TYPE_CHECKING:
    from retrieval.collection import Collection, SearchSettings
    from retrieval.embedding.embedder import Embedder
    from retrieval.passages import Mode
    from retrieval.splitting import SplitSettings

WARM_UP = 5
LONGEST_LINE = 2_000


def questions_of(path: Path | None, collection: "Collection | None", limit: int) -> list[str]:
    """Questions of a file: one a line in .txt, else whatever `eval.data.questions` reads; without a file the first
    sentences of the collection's own documents.

    Raises UsageError where there are none, ReadingError with file and line.
    """
    if path is None:
        found = list(islice(first_sentences(collection), limit)) if collection is not None else []
        where = "the collection has no document to ask about; give a file with --questions"
    elif path.suffix == ".txt":
        found, where = _lines(path)[:limit], f"{path} has no questions; write one a line"
    else:
        from eval.data.questions import read_questions, sampled

        found = [question.text for question in sampled(read_questions(path), limit)]
        where = f"{path} has no questions"
    if not found:
        raise UsageError(where)
    return found


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReadingError(str(path), "encoding", f"is not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            raise ReadingError(
                f"{path}, line {number}", "too long", f"a question has at most {LONGEST_LINE:,} characters"
            )
    return [line.strip() for line in lines if line.strip()]


def first_sentences(collection: "Collection") -> Iterator[str]:
    """The first sentence of a passage of each document, the middle one: beginnings are titles and licences."""
    from retrieval.sentences import sentence_spans

    for row in collection.documents():
        passages = collection.passages_of(row.source.id)
        if passages:
            text = passages[len(passages) // 2].text
            start, end = next(iter(sentence_spans(text)), (0, len(text)))
            if question := " ".join(text[start:end].split())[:400]:
                yield question


def measure_search(
    collection: "Collection",
    questions: Sequence[str],
    folder: PartFolder,
    progress: Progress,
    *,
    mode: "Mode",
    k: int,
    repeats: int,
) -> Mapping[str, Any]:
    """A record for each question: medians over its repeats. CPU time is that of the whole process."""
    asked = list(enumerate(questions, 1))
    if len(folder.done()) < len(asked):
        for question in questions[:WARM_UP]:
            collection.search(question, mode=mode, k=k)

    def do(item: tuple[int, str]) -> Record:
        walls, cpus, hits = [], [], 0
        stages: dict[str, list[float]] = {}
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            result = collection.search(item[1], mode=mode, k=k)
            walls.append((time.perf_counter() - wall) * 1e3)
            cpus.append((time.process_time() - cpu) * 1e3)
            hits = len(result.hits)
            for stage, milliseconds in result.timings.items():
                stages.setdefault(stage, []).append(milliseconds)
        timings = {stage: median(values) for stage, values in stages.items()}
        return {
            "text": item[1],
            "cluster": None,
            "metrics": {"search_ms": median(walls), "search_cpu_ms": median(cpus)},
            "timings": {**timings, "search": median(walls)},
            "error": None,
            "hits": hits,
        }

    run_items(
        folder,
        asked,
        do,
        identify=lambda item: str(item[0]),
        total=len(asked),
        what="questions",
        progress=progress,
        describe=lambda item: item[1],
    )
    done = [record["metrics"]["search_ms"] for record in folder.done().values()]
    spread = {f"p{percent}": percentile(done, percent) for percent in (50, 95, 99)} if done else {}
    return {"mode": mode, "k": k, "questions": len(done), "search_ms": spread, "collection": collection.status()}


def measure_indexing(
    source: Path,
    embedder: "Callable[[], Embedder]",
    folder: PartFolder,
    progress: Progress,
    *,
    repeats: int,
    splitting: "SplitSettings | None" = None,
    search: "SearchSettings | None" = None,
) -> Mapping[str, Any]:
    """A record for each time the folder is read, split, embedded and stored into a new collection, deleted after.

    CPU time counts this process and the readers it starts. Loading the model is not counted.
    """
    model = embedder()
    if len(folder.done()) < repeats:
        model.embed_passages(["one passage, so that the back end is ready"])

    def do(number: int) -> Record:
        from retrieval.collection import Collection
        from retrieval.reading.reader import Reader
        from retrieval.syncing import sync

        given: dict[str, Any] = {"split": splitting, "settings": search}
        chosen = {name: value for name, value in given.items() if value is not None}
        with tempfile.TemporaryDirectory(prefix="fathom-speed-") as place:
            cpu, wall = _cpu_seconds(), time.perf_counter()
            with Collection.create(Path(place) / "measured", name="measured", embedder=lambda: model, **chosen) as made:
                with Reader() as reader:
                    report = sync(made, source, reader)
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
        if not report.passages:
            raise FathomError(f"nothing in {source} could be indexed ({len(report.failed)} files failed)")
        return {
            "text": str(source),
            "cluster": None,
            "metrics": {
                "passages_per_second": [report.passages, wall],
                "cpu_per_passage_ms": [cpu * 1e3, report.passages],
                "indexing_wall_s": wall,
                "indexing_cpu_s": cpu,
            },
            "timings": {"indexing": wall * 1e3},
            "error": None,
            "passages": report.passages,
            "files": len(report.added),
            "failed": len(report.failed),
        }

    run_items(
        folder,
        range(1, repeats + 1),
        do,
        identify=str,
        total=repeats,
        what="times indexed",
        progress=progress,
        describe=lambda number: str(source),
        give_up_after=2,
    )
    records = list(folder.done().values())
    counts = {name: records[-1][name] for name in ("files", "failed", "passages")} if records else {}
    return {"backend": model.backend, **counts}


def _cpu_seconds() -> float:
    """User and system time of this process and of those it has waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

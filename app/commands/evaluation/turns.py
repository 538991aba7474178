"""Prompts or questions of a file → times of the embedded engine, or of a whole answer beside its engine alone: one line
of JSON. Started by `python -m eval.speed chat-turn` and `turn-overhead`, each time in a process of its own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import FathomError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from app.settings import Settings

MOST_TRIED = 12
"""Prompts tried for each that is wanted: about every second is answered at full length."""
BEGINNING = "Here are twenty more sentences of the chronicle, and then twenty more:\n\n1."
"""How the answer begins, so that it is a long list: an engine that ends by itself cannot be measured at writing."""


def settings_of(options: argparse.Namespace) -> "Settings":
    """As the command line has them, whatever the environment of the measuring process says."""
    from app.settings import load_settings

    flags: dict[str, dict[str, Any]] = {"engine": {"threads": options.threads, "model": options.model}}
    if options.url:
        flags["engine"] = {"url": options.url}
    if options.precision:
        flags["embedding"] = {"precision": options.precision, "device": "cpu"}
    return load_settings(options.workspace, environment={}, flags=flags)


def engine_of(options: argparse.Namespace) -> "LLM":
    """The engine of these options, loaded."""
    from app import build

    return build.engine(settings_of(options))


def prompts(options: argparse.Namespace) -> dict[str, Any]:
    """Prompts of `--tokens` tokens, as the model's chat template writes them, whose answers have `--new-tokens`."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    from eval.speed.prompts import prompt

    llm: Any = engine_of(options)

    def rendered(text: str) -> str:
        return str(llm.render([ChatMessage(role=MessageRole.USER, content=text)])) + BEGINNING

    room = options.tokens - llm.count_tokens(rendered(""))
    found: list[str] = []
    for seed in range(options.count * MOST_TRIED):
        text = rendered(prompt(room, llm.count_tokens, seed=options.seed * 1_000_003 + seed))
        if turn(llm, text, options.new_tokens)["new_tokens"] == options.new_tokens:
            found.append(text)
        if len(found) == options.count:
            return {"prompts": found}
    raise FathomError(
        f"{llm.metadata.model_name} ended {options.count * MOST_TRIED - len(found)} answers before "
        f"{options.new_tokens} tokens, so that only {len(found)} of {options.count} prompts were found; ask for fewer "
        "new tokens"
    )


def turns(options: argparse.Namespace) -> dict[str, Any]:
    """Each prompt of a file: its times and counts, and their medians."""
    first, *texts = json.loads(options.prompts.read_text(encoding="utf-8"))
    began = time.perf_counter()
    llm = engine_of(options)
    loading = time.perf_counter() - began
    turn(llm, first, 4)
    done = [turn(llm, text, options.new_tokens) for text in texts]
    return {
        "figures": {name: statistics.median(one[name] for one in done) for name in done[0]} | {"load_s": loading},
        "turns": done,
    }


def turn(llm: "LLM", text: str, new_tokens: int) -> dict[str, float]:
    """One prompt, ready as it is: its times and counts."""
    began = time.perf_counter()
    first = 0.0
    raw: dict[str, Any] = {}
    for response in llm.stream_complete(text, formatted=True, max_new_tokens=new_tokens):
        if response.delta and not first:
            first = time.perf_counter() - began
        raw = response.raw or raw
    total = time.perf_counter() - began
    return {
        "first_token_ms": first * 1e3,
        "prompt_tokens_per_second": raw["prompt_tokens"] / first if first else 0.0,
        "decode_tokens_per_second": (raw["completion_tokens"] - 1) / (total - first),
        "total_ms": total * 1e3,
        "prompt_tokens": raw["prompt_tokens"],
        "new_tokens": raw["completion_tokens"],
    }


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Each question of a file: milliseconds to the first word of its answer, and of the engine alone on the very
    messages that the answer was made from. Questions without a written answer are counted and left out."""
    from app import build

    settings = settings_of(options)
    questions = json.loads(options.prompts.read_text(encoding="utf-8"))
    llm = build.engine(settings)
    rows: list[dict[str, float]] = []
    with build.open_collection(settings, options.collection) as opened:

        def first_word(question: str) -> tuple[float | None, Any, dict[str, float]]:
            from retrieval.answering import Finished, Searched, Token

            searched: Any = None
            began = time.perf_counter()
            first, timings = None, {}
            for event in build.answer_events(settings, opened, question, llm=llm):
                if isinstance(event, Searched):
                    searched = event
                elif isinstance(event, Token) and first is None:
                    first = (time.perf_counter() - began) * 1e3
                elif isinstance(event, Finished):
                    timings = dict(event.answer.timings)
            return first, searched, timings

        for question in questions[: options.warm_up]:
            first_word(question)
        for question in questions[options.warm_up :]:
            first, searched, timings = first_word(question)
            if first is None:
                continue
            alone = bare(llm, question, searched.hits[: searched.given])
            rows.append({"answer_ms": first, "engine_ms": alone, "overhead_ms": first - alone} | timings)
    return {"rows": rows, "without_text": len(questions) - options.warm_up - len(rows)}


def bare(llm: "LLM", question: str, given: Any) -> float:
    """Milliseconds to the first word of the engine alone on the messages of an answer."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    from retrieval.prompts import answer_messages

    messages = [ChatMessage(role=MessageRole(m.role), content=m.text) for m in answer_messages(question, given)]
    began = time.perf_counter()
    responses: Iterator[Any] = llm.stream_chat(messages)
    try:
        for response in responses:
            if response.delta:
                return (time.perf_counter() - began) * 1e3
    finally:
        responses.close()  # type: ignore[attr-defined]
    raise FathomError("the engine alone wrote nothing to a question that it answered a moment ago; ask again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("prompts", prompts), ("turns", turns), ("overhead", overhead)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--workspace", type=Path, required=True)
        command.add_argument("--model", type=Path)
        command.add_argument("--url", help="a server instead of the embedded engine")
        command.add_argument("--threads", type=int)
        command.add_argument("--precision", help="of the embedding model")
        command.add_argument("--new-tokens", type=int, default=100)
    commands.choices["prompts"].add_argument("--tokens", type=int, default=1500)
    commands.choices["prompts"].add_argument("--count", type=int, default=4)
    commands.choices["prompts"].add_argument("--seed", type=int, default=0)
    for name in ("turns", "overhead"):
        commands.choices[name].add_argument("--prompts", type=Path, required=True, help="a JSON list of texts")
    commands.choices["overhead"].add_argument("--collection", required=True)
    commands.choices["overhead"].add_argument("--warm-up", type=int, default=3)
    options = parser.parse_args()
    try:
        answer = options.function(options)
    except FathomError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

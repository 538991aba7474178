"""llama.cpp on prompts of a file, one after another: prompts in, one line of JSON with times out.

Runs in its own environment (`python -m eval.baselines.install llama-cpp`) and imports nothing of Fathom. Greedy, and an
end-of-text token does not end it, so that every prompt gets as many new tokens as are asked for.
"""

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any


def turn(model: Any, text: str, new_tokens: int) -> dict[str, float]:
    """One prompt: its times and counts. Each token becomes text at once, as for somebody who reads along."""
    model.reset()  # nothing of the prompt before is remembered
    began = time.perf_counter()
    tokens = model.tokenize(text.encode("utf-8"), add_bos=False, special=True)
    first, written = 0.0, 0
    for token in model.generate(tokens, temp=0.0, top_k=1, repeat_penalty=1.0):
        model.detokenize([token])
        written += 1
        if written == 1:
            first = time.perf_counter() - began
        if written == new_tokens:
            break
    total = time.perf_counter() - began
    return {
        "first_token_ms": first * 1e3,
        "prompt_tokens_per_second": len(tokens) / first,
        "decode_tokens_per_second": (written - 1) / (total - first),
        "total_ms": total * 1e3,
        "prompt_tokens": len(tokens),
        "new_tokens": written,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp on the prompts of a file, timed.")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--prompts", required=True, help="a JSON list of texts; the first one warms up")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window", type=int, default=2048)
    options = parser.parse_args()
    import llama_cpp  # type: ignore[import-not-found]

    with open(options.prompts, encoding="utf-8") as stream:
        first, *texts = json.load(stream)
    began = time.perf_counter()
    model = llama_cpp.Llama(
        options.model,
        n_ctx=options.window,
        n_threads=options.threads,
        n_threads_batch=options.threads,
        verbose=False,
    )
    loading = time.perf_counter() - began
    turn(model, first, 4)
    turns = [turn(model, text, options.new_tokens) for text in texts]
    answer = {
        "figures": {name: statistics.median(one[name] for one in turns) for name in turns[0]} | {"load_s": loading},
        "turns": turns,
        "versions": {"llama-cpp-python": version("llama-cpp-python")},
        "system": llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

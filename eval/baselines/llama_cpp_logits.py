"""llama.cpp on a GGUF file: texts → tokens, tokens → logits, prompts → what it writes after them.

Runs in its own environment (`python -m eval.baselines.install llama-cpp`) and imports nothing of Fathom. Asked by JSON
on stdin: {"model", "logits", "texts", "ids", "prompts", "count", "window"}. Tokens and what it wrote go to stdout as
JSON, logits to the .npz file `logits`, one array for each list of `ids`. Greedy; an end-of-text token ends nothing.
"""

import json
import sys


def main() -> None:
    import llama_cpp  # type: ignore[import-not-found]
    import numpy as np

    asked = json.load(sys.stdin)
    model = llama_cpp.Llama(
        asked["model"], n_ctx=asked["window"], n_threads=1, n_threads_batch=1, verbose=False, logits_all=True
    )
    tokens = [model.tokenize(text.encode("utf-8"), add_bos=False, special=True) for text in asked["texts"]]
    logits = []
    for ids in asked["ids"]:
        model.reset()
        model.eval(ids)
        logits.append(np.array(model.scores[: len(ids)], dtype=np.float32))
    np.savez(asked["logits"], *logits)
    texts = []
    for ids in asked["prompts"]:
        model.reset()
        written: list[int] = []
        for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            written.append(token)
            if len(written) == asked["count"]:
                break
        texts.append(written)
    sys.stdout.write(json.dumps({"tokens": tokens, "written": texts}) + "\n")


if __name__ == "__main__":
    main()

"""Prompts and choices → ln P of each choice as what comes next, as an OpenAI-compatible server tells it.

vLLM takes token ids and tells of any token; other servers tell of their likeliest by text. It opens no connection.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrieval.errors import FathomError, UsageError

Message = Mapping[str, str]
Post = Callable[[str, dict[str, Any]], Any]
"""A path and a body → the JSON that the server answers."""
LIKELIEST = 20
"""Tokens whose probability is asked for at once; the most that vLLM and OpenAI's own servers tell."""
NAMED = 100
"""Tokens that vLLM is asked about by id in one request; it takes up to 128."""
AT_ONCE = 16
"""Prompts in one request to vLLM, which reads them together."""


def weigh_by_vllm(
    post: Post, tokenize: Post, model: str, prompts: Sequence[str | Sequence[Message]], choices: Sequence[str]
) -> list[list[float]]:
    """By token ids, so that a choice is what the tokenizer makes of it. Raises FathomError.

    Each token of a choice is weighed as what would be written next. A prompt's own probabilities would say it too
    (`prompt_logprobs`), but a vLLM with LoRA adapters tells wrong ones (github.com/vllm-project/vllm/issues/16668),
    and on a CPU (0.32) it ends with all its models: only one too old to be asked by id is asked so.
    """
    answers = [_ids(tokenize, model, choice) for choice in choices]
    questions = [_ids(tokenize, model, prompt) for prompt in prompts]
    tokens = sorted({token for answer in answers for token in answer})
    begun = {tuple(answer[:length]): None for answer in answers for length in range(len(answer))}
    places = [(at, start) for at in range(len(questions)) for start in begun]
    told: dict[tuple[int, tuple[int, ...]], dict[int, float]] = {place: {} for place in places}
    for begin in range(0, len(places), AT_ONCE):
        part = places[begin : begin + AT_ONCE]
        before = [[*questions[at], *start] for at, start in part]
        for first in range(0, len(tokens), NAMED):
            named = _named(post, model, before, tokens[first : first + NAMED])
            for place, row in zip(part, named, strict=True):
                told[place] |= row
    found: list[list[float | None]] = [
        [_summed(told, at, answer) for answer in answers] for at in range(len(questions))
    ]
    missing = [(at, n) for at, values in enumerate(found) for n, value in enumerate(values) if value is None]
    for begin in range(0, len(missing), AT_ONCE):
        lacking = missing[begin : begin + AT_ONCE]
        wholes = [questions[at] + answers[n] for at, n in lacking]
        lengths = [len(answers[n]) for _, n in lacking]
        for (at, n), value in zip(lacking, _echoed(post, model, wholes, lengths), strict=True):
            found[at][n] = value
    return [[float(value) for value in values if value is not None] for values in found]


def _summed(
    told: Mapping[tuple[int, tuple[int, ...]], Mapping[int, float]], at: int, answer: Sequence[int]
) -> float | None:
    """ln P of all tokens of an answer to question `at`; None where one was not told."""
    values = [told[at, tuple(answer[:place])].get(token) for place, token in enumerate(answer)]
    return None if None in values else sum(value for value in values if value is not None)


def weigh_by_text(
    post: Post, model: str, prompts: Sequence[str | Sequence[Message]], choices: Sequence[str]
) -> list[list[float]]:
    """By the texts of the likeliest tokens. A choice that is not among them gets the probability of the last that is,
    which is more than its own.

    Raises UsageError where the server tells no probabilities, or none of a prompt's choices is among the likeliest.
    """
    rows = []
    for prompt in prompts:
        told = _told_by_text(post, model, prompt)
        if not any(choice in told for choice in choices):
            raise UsageError(
                f"the server tells the probability of the {len(told)} likeliest tokens, and none of {list(choices)} is "
                "among them; ask for them in the prompt, or use the engine 'local'"
            )
        rows.append([told.get(choice, min(told.values())) for choice in choices])
    return rows


def _ids(tokenize: Post, model: str, prompt: str | Sequence[Message]) -> list[int]:
    body: dict[str, Any] = {"model": model, "add_special_tokens": False}
    if isinstance(prompt, str):
        body["prompt"] = prompt
    else:
        body |= {"messages": [dict(message) for message in prompt], "add_generation_prompt": True}
    try:
        tokens = tokenize("/tokenize", body)["tokens"]
        return [int(token) for token in tokens]
    except (KeyError, TypeError, ValueError) as error:
        raise _strange("tokens", error) from error


def _named(post: Post, model: str, questions: Sequence[list[int]], tokens: Sequence[int]) -> list[dict[int, float]]:
    """ln P of these tokens as the next one, by id; of the likeliest ones where the server cannot be asked by id."""
    body = {
        "model": model,
        "prompt": list(questions),
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": LIKELIEST,
        "logprob_token_ids": list(tokens),
        "return_tokens_as_token_ids": True,
    }
    try:
        told = [choice["logprobs"]["top_logprobs"][0] for choice in _choices(post, body, len(questions))]
        return [{int(name.removeprefix("token_id:")): float(value) for name, value in row.items()} for row in told]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _strange("probabilities", error) from error


def _echoed(post: Post, model: str, wholes: Sequence[list[int]], lengths: Sequence[int]) -> list[float]:
    """ln P of the last tokens of each sequence, after those before them."""
    body = {"model": model, "prompt": list(wholes), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    try:
        found = []
        choices = _choices(post, body, len(wholes))
        for whole, length, choice in zip(wholes, lengths, choices, strict=True):
            told = choice["prompt_logprobs"][-length:]
            found.append(sum(float(at[str(token)]["logprob"]) for at, token in zip(told, whole[-length:], strict=True)))
        return found
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _strange("probabilities", error) from error


def _choices(post: Post, body: dict[str, Any], count: int) -> list[Any]:
    choices = sorted(post("/completions", body)["choices"], key=lambda choice: int(choice["index"]))
    if len(choices) != count:
        raise ValueError(f"{len(choices)} answers to {count} prompts")
    return choices


def _told_by_text(post: Post, model: str, prompt: str | Sequence[Message]) -> dict[str, float]:
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0.0}
    found: dict[str, float] = {}
    try:
        if isinstance(prompt, str):
            told = post("/completions", body | {"prompt": prompt, "logprobs": LIKELIEST})["choices"][0]["logprobs"]
            pairs = list(told["top_logprobs"][0].items()) if told else []
        else:
            messages = [dict(message) for message in prompt]
            body |= {"messages": messages, "logprobs": True, "top_logprobs": LIKELIEST}
            told = post("/chat/completions", body)["choices"][0].get("logprobs")
            pairs = [(one["token"], one["logprob"]) for one in told["content"][0]["top_logprobs"]] if told else []
        for text, value in pairs:
            found[str(text)] = max(float(value), found.get(str(text), float(value)))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _strange("probabilities", error) from error
    if not found:
        raise UsageError("the server shows no probabilities (logprobs); use the engine 'local', or vLLM")
    return found


def _strange(what: str, error: Exception) -> FathomError:
    return FathomError(f"the server answered with no {what} as the OpenAI protocol has them ({error!r:.80})")

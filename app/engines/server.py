"""An OpenAI-compatible server (vLLM first of all) as a LlamaIndex `LLM` with the manners of the embedded engine.

It turns messages into a request and an answer into pieces; how a connection is opened, watched and closed is in
endpoint.py. The official SDK would bring a second set of timeouts (600 s, three tries), environment variables read
behind our back, and no way to hang up from another thread, so this speaks the protocol itself.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from app.engines.endpoint import Endpoint, address
from app.engines.generating import Piece, Sampling, Stoppable, TimeLimits
from app.engines.refusals import NoSuchAddress
from app.engines.server_weighing import weigh_by_text, weigh_by_vllm
from app.engines.speaker import unknown_role
from app.engines.speaking import Source, SpeakingLLM
from eval.models.chat_prompts import broken_up, folded
from retrieval.errors import FathomError, MissingError, UsageError

UNKNOWN_CONTEXT = 4096
"""Where the server does not say; all but the smallest read at least this much."""
COUNTS_KEPT = 4096
_ROLES = {MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.ASSISTANT: "assistant"}
_REFUSES_ROLES = re.compile(r"system role|roles must alternate|must alternate between", re.I)
"""What chat templates say that know no system message, or want user and assistant to take turns (Gemma, Mistral)."""
# The server's tokenizer reads a special token spelled out in a document as the real one (vLLM 0.32: `<|im_end|>` is one
# token), and the document could end its turn. Its vocabulary is not known here; these are the ways they are written.
_CONTROL = re.compile(
    r"<[|｜][^<>|｜\n]{1,60}[|｜]>|</?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|tool_call|tool_response)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
)


class ServerLLM(SpeakingLLM):
    """A model behind an OpenAI-compatible address; make one with `load_server`. Many threads may call it at once.

    Calls take `stop`, `max_new_tokens`, `temperature`, `top_p`, `seed`, `repetition_penalty` and `limits` (TimeLimits)
    as the embedded engine's do; a text or list as `stop` is passed on as the server's stop strings.
    """

    model_name: str = Field(description="Name of the model or adapter, as the server calls it.")
    url: str = Field(description="Base address, which usually ends in /v1.")
    context_window: int = Field(default=UNKNOWN_CONTEXT, description="Tokens of prompt and answer together.")
    max_new_tokens: int = Field(default=320, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    repetition_penalty: float | None = Field(default=None, description="Sent only if given: not every server knows it.")
    seed: int = Field(default=0, description="Used where the temperature is above 0.")
    top_p: float = Field(default=Sampling().top_p, description="Likewise.")
    limits: TimeLimits = Field(default=TimeLimits(), description="Time limits, seconds.", exclude=True)

    _endpoint: Endpoint = PrivateAttr()
    _adapters: dict[str, str] = PrivateAttr()
    _origin: "ServerLLM | None" = PrivateAttr(default=None)
    _speaks_vllm: bool = PrivateAttr()
    _folds: bool = PrivateAttr(default=False)
    _count: Any = PrivateAttr()

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        speaks_vllm: bool = False,
        adapters: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """`adapters` are the server's names of adapters on the model, by role."""
        super().__init__(url=endpoint.url, **fields)
        self._endpoint = endpoint
        self._adapters = dict(adapters or {})
        self._speaks_vllm = speaks_vllm
        self._count = lru_cache(maxsize=COUNTS_KEPT)(self._counted)

    @classmethod
    def class_name(cls) -> str:
        return "fathom_server"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model_name,
        )

    @property
    def concurrency(self) -> int:
        """Requests under way at once; more wait in line."""
        return self._endpoint.concurrency

    @property
    def endpoint(self) -> Endpoint:
        """The address with its key, for other things that the server can do."""
        return self._endpoint

    @property
    def speaks_vllm(self) -> bool:
        """Whether the server says that it is vLLM."""
        return self._speaks_vllm

    @property
    def origin(self) -> "ServerLLM":
        """The engine that this is a view of; itself where it is none."""
        return self._origin or self

    @property
    def roles(self) -> tuple[str, ...]:
        """What `under` takes."""
        return tuple(self._adapters)

    def under(self, role: str) -> "ServerLLM":
        """The same server, answering with the adapter of a role. Closing it closes nothing. Raises UsageError."""
        if role not in self._adapters:
            raise unknown_role(role, self.roles, self.model_name)
        view = self.model_copy(update={"model_name": self._adapters[role]})
        view._origin = self.origin
        return view

    def close(self) -> None:
        """Hang up on everything that runs."""
        if self._origin is None:
            self._endpoint.close()

    def choice_logprobs(
        self,
        prompts: Sequence[str | Sequence[ChatMessage]],
        choices: Sequence[str],
        *,
        stop: Stoppable | None = None,
    ) -> list[list[float]]:
        """For each prompt, ln P of each choice as what the model writes next: "yes" against "no", for reranking.

        A prompt that is a text is complete as it stands. Exact with vLLM; another server tells its 20 likeliest tokens,
        and a choice beyond them gets the probability of the last. Raises UsageError where it tells none, FathomError
        between two requests once `stop` is set.
        """
        if not choices or not all(choices):
            raise UsageError("give choices to weigh, none of them empty")
        asked = [prompt if isinstance(prompt, str) else self._messages(prompt) for prompt in prompts]
        if not all(asked):
            raise UsageError("a prompt to weigh is empty; write a question")
        asked, wanted = sendable(asked), sendable(list(choices))
        bare = self.url.removesuffix("/v1")

        def post(path: str, body: dict[str, Any]) -> Any:
            if stop is not None and stop.is_set():
                raise FathomError("the language model was stopped")
            return self._endpoint.post(self.url + path, body, seconds=self.limits.total)

        def tokenize(path: str, body: dict[str, Any]) -> Any:
            return self._endpoint.post(bare + path, body, seconds=self.limits.total)

        if self._speaks_vllm:
            try:
                return weigh_by_vllm(post, tokenize, self.model_name, asked, wanted)
            except NoSuchAddress:  # a proxy that passes /v1 alone
                self._speaks_vllm = False
        return weigh_by_text(post, self.model_name, asked, wanted)

    def _messages(self, messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
        plain = [
            {"role": _ROLES.get(message.role, "user"), "content": broken_up(message.content or "", _CONTROL)}
            for message in messages
        ]
        return folded(plain) if self._folds else plain

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds: exact where the server is vLLM, else a guess that is
        rather too high."""
        if self._speaks_vllm:
            try:
                return int(self._count(text))
            except NoSuchAddress:  # a proxy that passes /v1 alone
                self._speaks_vllm = False
        return _guess(text)

    def _counted(self, text: str) -> int:
        body = {"model": self.model_name, "prompt": text, "add_special_tokens": False}
        answer = self._endpoint.post(self.url.removesuffix("/v1") + "/tokenize", body)
        if not isinstance(answer, dict) or not isinstance(answer.get("count"), int):
            raise NoSuchAddress(f"the server at {self.url} does not count tokens")
        return int(answer["count"])

    def _request(self, source: Source, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """(path, body, arguments of `Endpoint.stream`)."""
        if isinstance(source, str):
            path, text = "/completions", source
            body: dict[str, Any] = {"prompt": source}
        else:
            messages = self._messages(cast(Sequence[ChatMessage], source))
            path, text = "/chat/completions", "\n".join(message["content"] for message in messages)
            body = {"messages": messages}
        if not text.strip():
            raise UsageError("the prompt is empty; write a question")
        wanted = int(kwargs.get("max_new_tokens") or kwargs.get("max_tokens") or self.max_new_tokens)
        temperature = float(kwargs.get("temperature", self.temperature))
        penalty = kwargs.get("repetition_penalty", self.repetition_penalty)
        stop = kwargs.get("stop")
        body |= {
            "model": self.model_name,
            "max_tokens": max(1, min(wanted, self.context_window - 1)),
            "temperature": temperature,
            "stream": True,
            # vLLM counts with every event then, so that a stopped answer has its counts too.
            "stream_options": {"include_usage": True} | ({"continuous_usage_stats": True} if self._speaks_vllm else {}),
        }
        if temperature > 0:
            body |= {"top_p": float(kwargs.get("top_p", self.top_p)), "seed": int(kwargs.get("seed", self.seed))}
        if penalty is not None:
            body["repetition_penalty"] = float(penalty)
        if isinstance(stop, str | list | tuple):  # what other engines call stop
            body["stop"] = [stop] if isinstance(stop, str) else list(stop)
            stop = None
        # Servers take text as UTF-8, which has no lone surrogates (undecodable bytes of a file name, say).
        body = sendable(body)
        return path, body, {"prompt": _guess(text), "limits": kwargs.get("limits") or self.limits, "stop": stop}

    def _pieces(self, source: Source, kwargs: dict[str, Any]) -> Iterator[Piece]:
        path, body, options = self._request(source, kwargs)
        return self._following(path, body, options)

    def _following(self, path: str, body: dict[str, Any], options: dict[str, Any]) -> Iterator[Piece]:
        try:
            yield from self._endpoint.stream(path, body, **options)
            return
        except FathomError as error:
            body = self._other(body, error)
        yield from self._endpoint.stream(path, body, **options)

    def _other(self, body: dict[str, Any], error: FathomError) -> dict[str, Any]:
        """The request in the form that the strictest chat templates take, from now on; raises `error` where that was
        not what was wrong."""
        if self._folds or "messages" not in body or not _REFUSES_ROLES.search(str(error)):
            raise error
        self._folds = True
        return body | {"messages": folded(body["messages"])}

    def _pieces_async(self, source: Source, kwargs: dict[str, Any]) -> AsyncIterator[Piece]:
        path, body, options = self._request(source, kwargs)
        return self._following_async(path, body, options)

    async def _following_async(self, path: str, body: dict[str, Any], options: dict[str, Any]) -> AsyncIterator[Piece]:
        for last in (False, True):
            stream = self._endpoint.stream_async(path, body, **options)
            try:
                async for piece in stream:
                    yield piece
                return
            except FathomError as error:
                if last:
                    raise
                body = self._other(body, error)
            finally:
                await stream.aclose()  # type: ignore[attr-defined]


def load_server(
    url: str,
    *,
    model: str | None = None,
    adapters: Mapping[str, str] | None = None,
    api_key: str | None = None,
    connect_seconds: float | None = None,
    concurrency: int | None = None,
    **settings: Any,
) -> ServerLLM:
    """The model (or adapter) `model` at `url`; None is the one model that the server has, adapters aside.

    `adapters` are the server's names of adapters by role; those on the model are roles by their own names anyway.
    `settings` are ServerLLM's fields. Asks the server for its models, so that what cannot work is known at once.
    Raises UsageError for what is no address and where a model must be named, MissingError where there is no server or
    no such model.
    """
    given: dict[str, Any] = {"connect_seconds": connect_seconds, "concurrency": concurrency}
    endpoint = Endpoint(
        address(url), api_key=api_key, **{name: given[name] for name in given if given[name] is not None}
    )
    try:
        models = _models(endpoint.get("/models", seconds=10.0 + (connect_seconds or 0.0)))
    except NoSuchAddress:
        if model is None or not endpoint.has("/chat/completions"):
            raise
        models = {}  # a gateway that lists none: whether it has the model shows at the first question
    endpoint.known_models = tuple(models)
    if model is None:
        bases = [name for name, card in models.items() if not card.get("parent")]
        if len(bases) != 1:
            found = f"it has {', '.join(models)}" if models else "it names none"
            raise UsageError(
                f"the server at {endpoint.url} does not tell which model to use ({found}); name one of "
                "them with [engine] model, or after a # at the end of the address"
            )
        model = bases[0]
    elif models and model not in models:
        raise MissingError(
            f"the server at {endpoint.url} has no model '{model[:80]}'; it has {', '.join(models)}; name one of them"
        )
    roles = {name: name for name, card in models.items() if card.get("parent") == model} | dict(adapters or {})
    for role, name in roles.items():
        if models and name not in models:
            raise MissingError(
                f"the server at {endpoint.url} has no adapter '{name[:80]}' for the role '{role}'; it has "
                f"{', '.join(models)}; correct [engine] adapters"
            )
    card = models.get(model, {})
    window = _window(card) or _window(models.get(str(card.get("parent")), {})) or UNKNOWN_CONTEXT
    settings.setdefault("context_window", window)
    vllm = card.get("owned_by") == "vllm"
    return ServerLLM(endpoint, speaks_vllm=vllm, adapters=roles, model_name=model, **settings)


def _models(answer: Any) -> dict[str, dict[str, Any]]:
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list):
        raise FathomError(
            "what the server names as its models is no list of the OpenAI protocol; give the address of an "
            "OpenAI-compatible server, which usually ends in /v1"
        )
    return {card["id"]: card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)}


def _window(card: dict[str, Any]) -> int | None:
    """What vLLM, llama.cpp and others say about how much a model reads."""
    meta = card.get("meta")
    for found in (
        card.get("max_model_len"),
        card.get("context_length"),
        (meta or {}).get("n_ctx") if isinstance(meta, dict) else None,
    ):
        if isinstance(found, int) and found > 0:
            return found
    return None


def _guess(text: str) -> int:
    """About a token for three ASCII characters and one for any other: high for English, right for Chinese."""
    plain = sum(character.isascii() for character in text)
    return plain // 3 + len(text) - plain + 1


def sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [sendable(item) for item in value]
    return {key: sendable(item) for key, item in value.items()} if isinstance(value, dict) else value

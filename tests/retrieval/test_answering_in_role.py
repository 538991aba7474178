"""An engine with an adapter for answering writes under it, asked as the adapter was trained."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fakes import five_documents
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms.custom import CustomLLM

from retrieval.answering import TRAINED_PASSAGES, AnswerSettings, answer
from retrieval.collection import Collection
from retrieval.passages import Document

EVERYTHING = AnswerSettings(least_confidence=0.0, answerer=True)
HISTORY = [{"role": "user", "content": "How is bread made?"}, {"role": "assistant", "content": "With yeast [1]."}]


class SpeakingLLM(CustomLLM):
    """Writes `reply`; remembers what it was shown."""

    reply: str = ""
    _shown: list[ChatMessage] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=4096, num_output=64, model_name="speaking", is_chat_model=True)

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Iterator[ChatResponse]:
        self._shown = list(messages)
        yield ChatResponse(message=ChatMessage(content=self.reply), delta=self.reply)


class AdaptedLLM(SpeakingLLM):
    """An engine whose adapter says something else."""

    roles: tuple[str, ...] = ("answerer",)
    _adapted: Any = PrivateAttr(default_factory=lambda: SpeakingLLM(reply="Knead the dough well."))

    def under(self, role: str) -> Any:
        assert role == "answerer"
        return self._adapted


def test_the_adapter_writes_and_is_asked_one_question_that_stands_alone(collection: Collection) -> None:
    collection.add(five_documents())
    llm = AdaptedLLM(reply="Tides.")
    found = answer(
        "And then?", collection=collection, llm=llm, history=HISTORY, search_mode="lexical", settings=EVERYTHING
    )
    assert found.text.startswith("Knead the dough well") and not llm._shown
    system, user = llm._adapted._shown
    assert system.role == "system" and "How is bread made? And then?" in str(user.content)


def test_the_model_itself_writes_where_nobody_asks_for_the_adapter(collection: Collection) -> None:
    collection.add(five_documents())
    llm = AdaptedLLM(reply="Knead the dough well.")
    settings = AnswerSettings(least_confidence=0.0)
    answer("And then?", collection=collection, llm=llm, history=HISTORY, search_mode="lexical", settings=settings)
    assert not llm._adapted._shown and len(llm._shown) == 4


def test_an_answer_in_the_questions_words_is_borne_out_where_the_question_is_answered(collection: Collection) -> None:
    text = "Tidewell was founded in 1999. It has a harbour. The lighthouse of Tidewell was lit in 1999 as well."
    collection.add([Document(uri="tidewell.md", text=text, content_hash="1")])
    llm = AdaptedLLM()
    llm._adapted = SpeakingLLM(reply="1999 [1]")
    found = answer("When was the lighthouse lit?", collection=collection, llm=llm, settings=EVERYTHING)
    assert [one.quote for one in found.citations] == ["The lighthouse of Tidewell was lit in 1999 as well."]
    llm._adapted = SpeakingLLM(reply="lighthouse [1]")
    found = answer("Was the lighthouse or the tower lit?", collection=collection, llm=llm, settings=EVERYTHING)
    assert found.text == "lighthouse [1]" and found.citations[0].supported == "yes"
    kept = answer("What is the lighthouse?", collection=collection, llm=llm, settings=EVERYTHING)
    assert kept.text == "lighthouse [1]" and not kept.draft
    echoed = answer(
        "What is the lighthouse?", collection=collection, llm=SpeakingLLM(reply="lighthouse [1]"), settings=EVERYTHING
    )
    assert echoed.draft == "lighthouse [1]", "a model that has not learnt to is taken to repeat the question"


def test_the_adapter_is_shown_the_best_two_passages_where_nobody_says_how_many(collection: Collection) -> None:
    collection.add(five_documents())
    asked = {"collection": collection, "search_mode": "lexical", "k": 5}

    def shown(settings: AnswerSettings, question: str = "tides and bread and diesel") -> int:
        llm = AdaptedLLM(reply="Knead the dough well.")
        answer(question, llm=llm, settings=settings, **asked)
        messages = llm._adapted._shown or llm._shown
        return str(messages[-1].content).count("<passage number=")

    assert shown(EVERYTHING) == TRAINED_PASSAGES < shown(replace(EVERYTHING, answerer=False))
    assert shown(replace(EVERYTHING, most_passages=1)) == 1


def test_a_model_that_says_that_there_is_no_answer_is_not_borne_out_by_passages_about_answers(
    collection: Collection,
) -> None:
    text = "Passages are cut from documents. A model should say so where passages do not answer a question."
    collection.add([Document(uri="rag.md", text=text, content_hash="1")])
    llm = AdaptedLLM()
    llm._adapted = SpeakingLLM(reply="The passages do not answer this question. [1]")
    asked = {"collection": collection, "llm": llm, "search_mode": "lexical"}
    found = answer("What should a model say about passages?", settings=EVERYTHING, **asked)
    assert found.refused and not found.citations and found.draft
    sure = answer("What should a model say about passages?", settings=replace(EVERYTHING, quote_from=0.0), **asked)
    assert not sure.refused and sure.model.endswith("+quote") and "A model should say so" in sure.text
    llm._adapted = SpeakingLLM(reply="The passages do not answer it. A model should say so [1].")
    partly = answer("What should a model say about passages?", settings=EVERYTHING, **asked)
    assert not partly.refused and "A model should say so" in partly.text

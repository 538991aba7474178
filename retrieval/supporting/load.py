"""A word → the support checker it names. Imports of back ends happen inside: naming one costs nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import MissingError, UsageError
from retrieval.supporting.checker import SupportChecker
from retrieval.supporting.lexical import LEXICAL, LexicalChecker

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

ENCODER, LLM_WORD = "encoder", "llm"


def load_checker(
    word: str = LEXICAL,
    *,
    llm: "Callable[[], LLM] | None" = None,
    device: str = "cpu",
    threads: int = 0,
    cache: Path | None = None,
) -> SupportChecker:
    """ "lexical" compares words, "encoder" is the trained one in `data/adapters/support` (none was good enough to come
    with Fathom), "llm" asks the model that `llm` gives; anything else is a folder of `fathom adapt run`.

    Raises UsageError for another word and for an engine that cannot, MissingError, MismatchError, DamagedError.
    """
    if word == LEXICAL:
        return LexicalChecker()
    if word == LLM_WORD:
        if llm is None:
            raise UsageError("support is checked by a language model and there is none; name an engine, or 'lexical'")
        from retrieval.supporting.language_model import LanguageModelChecker

        return LanguageModelChecker(llm())
    from retrieval.supporting.encoder import load_encoder_checker

    return load_encoder_checker(checker_folder(word), device=device, threads=threads, cache=cache)


def checker_folder(word: str) -> Path:
    """Where a trained checker lies. Raises MissingError where the shipped one is not there, UsageError for a word that
    is neither."""
    from retrieval.supporting.encoder import SHIPPED

    if word == ENCODER:
        if not SHIPPED.is_dir():
            raise MissingError(f"the support checker that comes with Fathom is not in {SHIPPED}; use 'lexical'")
        return SHIPPED
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"no support checker '{word[:80]}'; write 'lexical', 'encoder', 'llm' or the folder of a trained one"
        )
    return folder


def checker_identity(word: str, *, cache: Path) -> dict[str, Any] | None:
    """What decides a checker's verdicts, without loading it; None for "llm", which its engine's identity tells."""
    if word == LEXICAL:
        return dict(LexicalChecker.described)
    if word == LLM_WORD:
        return None
    from retrieval.embedding.stored import file_hash
    from retrieval.reranking.pair_folder import FACTS, SUPPORT, judge_pair_folder

    folder = checker_folder(word)
    weights = judge_pair_folder(folder, role=SUPPORT, cache=cache).weights
    return {"checker": "encoder", "weights": weights, "facts": file_hash(folder / FACTS)}

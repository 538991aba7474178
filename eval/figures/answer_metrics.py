"""An answer and its gold answers → exact match, F1, ROUGE-L, containment. Pure functions; English and Chinese.

They know no model and no question. English is measured as the SQuAD script does, Chinese as the CMRC 2018 script.
"""

import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

from retrieval.citing import strip_markers
from retrieval.prompts import Language

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# CMRC's list names six dots too; it goes character by character, so that they never match: nor here.
_CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_HAN = re.compile(r"[\u4e00-\u9fa5]")
# Scripts without spaces between words: one character, one token.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ROUGE_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def cleaned(answer: str) -> str:
    """An answer as it is compared: without citation marks, white space folded."""
    return " ".join(strip_markers(answer)[0].split())


# --- English: SQuAD ---------------------------------------------------------------------------------------------------


def squad_normalised(text: str) -> str:
    """Lower case, ASCII punctuation and the words a, an, the taken out, white space folded, in this order.

    As in the official evaluation script of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018). The order has effects
    that are part of the measure: "e.g. a" loses nothing but its dots and its article, "1,000" becomes "1000", "the-end"
    "theend", and typographic quotation marks stay.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _squad_golds(golds: Iterable[str]) -> list[str]:
    """As SQuAD 2.0: golds that normalise to nothing count as none, and none at all is the empty answer."""
    return [gold for gold in golds if squad_normalised(gold)] or [""]


def _bag_f1(ours: Sequence[str], gold: Sequence[str]) -> float:
    if not ours or not gold:
        return float(ours == gold)
    shared = sum((Counter(ours) & Counter(gold)).values())
    return 2 * shared / (len(ours) + len(gold))


# --- Chinese: CMRC 2018 -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _word_tokenizer():  # type: ignore[no-untyped-def]
    from nltk.tokenize.destructive import NLTKWordTokenizer  # type: ignore[import-untyped]  # 2 s to import

    return NLTKWordTokenizer()


def cmrc_segments(text: str) -> list[str]:
    """Chinese characters singly, everything between them as English words; CMRC's punctuation left out.

    As `mixed_segmentation(rm_punc=True)` of cmrc2018_evaluate.py, version 5 (Cui et al. 2019). Words are NLTK's
    (Treebank). The script also splits sentences inside a stretch without Chinese, which needs a model; that differs
    only where such a stretch has a full stop in its middle.
    """
    segments: list[str] = []
    run = ""
    for character in text.lower().strip():
        if character in _CMRC_PUNCTUATION:
            continue
        if _CMRC_HAN.match(character):
            segments += _words(run)
            segments.append(character)
            run = ""
        else:
            run += character
    return segments + _words(run)


def _words(run: str) -> list[str]:
    run = run.strip()
    # Treebank's rules leave a plain word as it is, and almost all of them are.
    return [run] if run.isalnum() else [str(word) for word in _word_tokenizer().tokenize(run)] if run else []


def cmrc_normalised(text: str) -> str:
    """Lower case without CMRC's punctuation; spaces inside stay, as in the script's `remove_punctuation`."""
    return "".join(character for character in text.lower().strip() if character not in _CMRC_PUNCTUATION)


def _cmrc_f1(ours: Sequence[str], gold: Sequence[str]) -> float:
    """From the longest common *substring* of segments: the script calls it lcs, and a subsequence scores higher."""
    common = longest_common_run(ours, gold)
    return 2 * common / (len(ours) + len(gold)) if common else float(not ours and not gold)


def longest_common_run(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest contiguous stretch that stands in both."""
    places: dict[str, list[int]] = {}
    for index, item in enumerate(two):
        places.setdefault(item, []).append(index)
    best = 0
    ending: dict[int, int] = {}
    for item in one:
        ending = {index: ending.get(index - 1, 0) + 1 for index in places.get(item, ())}
        best = max(best, max(ending.values(), default=0))
    return best


# --- by language ------------------------------------------------------------------------------------------------------


def exact_match(prediction: str, golds: Sequence[str], language: Language = "en") -> float:
    """1 where the normalised prediction equals a normalised gold. No gold, or "", means "there is no answer"."""
    if language == "zh":
        return float(cmrc_normalised(prediction) in {cmrc_normalised(gold) for gold in list(golds) or [""]})
    return float(squad_normalised(prediction) in {squad_normalised(gold) for gold in _squad_golds(golds)})


def token_f1(prediction: str, golds: Sequence[str], language: Language = "en") -> float:
    """F1 with the gold it is nearest to: bag of words in English (SQuAD 2.0; 1.1 differs only where a text normalises
    to nothing, which it scores 0), longest common run of segments in Chinese (CMRC 2018)."""
    if language == "zh":
        ours = cmrc_segments(prediction)
        return max(_cmrc_f1(ours, cmrc_segments(gold)) for gold in list(golds) or [""])
    words = squad_normalised(prediction).split()
    return max(_bag_f1(words, squad_normalised(gold).split()) for gold in _squad_golds(golds))


def contains(prediction: str, gold: str, language: Language = "en") -> bool:
    """Whether the gold stands in the prediction, word for word after normalising, at word boundaries: 8 is not in 80.

    The accuracy of open-ended answers (Mallen et al. 2023), which compare substrings without boundaries.
    """
    if language == "zh":
        ours, theirs = cmrc_segments(prediction), cmrc_segments(gold)
    else:
        ours, theirs = squad_normalised(prediction).split(), squad_normalised(gold).split()
    return bool(theirs) and any(
        ours[start : start + len(theirs)] == theirs for start in range(len(ours) - len(theirs) + 1)
    )


def rouge_tokens(text: str) -> list[str]:
    """Lower-case words and numbers; Chinese, Japanese and Thai by the character."""
    return _ROUGE_TOKEN.findall(text.lower())


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence with the reference it is nearest to (ROUGE-L, Lin 2004, β = 1, no stemming).

    Equals the rouge_score package on English; that one keeps [a-z0-9] alone and gives two equal Chinese texts 0.
    """
    ours = rouge_tokens(prediction)
    best = 0.0
    for reference in references:
        theirs = rouge_tokens(reference)
        if ours and theirs:
            best = max(best, 2 * common_subsequence(ours, theirs) / (len(ours) + len(theirs)))
        elif not ours and not theirs:
            best = 1.0
    return best


def common_subsequence(one: Sequence[Hashable], two: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, a whole row in one integer addition (Hyyrö 2004): 3,000 words of each
    take some milliseconds where a table takes seconds."""
    where: dict[Hashable, int] = {}
    for index, item in enumerate(one):
        where[item] = where.get(item, 0) | 1 << index
    full = (1 << len(one)) - 1
    row = full
    for item in two:
        matches = row & where.get(item, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(one) - row.bit_count()

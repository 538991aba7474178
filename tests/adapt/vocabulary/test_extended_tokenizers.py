"""A tokenizer with domain tokens makes no text longer, gives every text back, and keeps all that it was before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domain_words import CHINESE_TERMS, FAMILIES, TERMS, Domain, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import word_tokenizer

from adapt.recipe import Vocabulary
from adapt.vocabulary.byte_level import byte_level, is_word, may_become_word, written
from adapt.vocabulary.phrases import is_term, may_become_term
from adapt.vocabulary.terms import Candidates, candidates, whole
from adapt.vocabulary.tokenizer_file import (
    compare,
    decode,
    encode,
    extended,
    load,
    require_same_special_tokens,
    strange_texts,
    write,
)
from retrieval.errors import FathomError, UsageError

SETTINGS = Vocabulary(tokens=60, min_frequency=8, least_saving=0.0, words_at_most=5)
WORDS = SETTINGS.model_copy(update={"words_at_most": 1})
KINDS = [(family, settings) for family in FAMILIES for settings in (SETTINGS, WORDS)]
NAMES = [f"{family}-{settings.words_at_most}" for family, settings in KINDS]
Pair = tuple[Any, Any, Candidates]


def extend(old: Any, folder: Path, wanted: Vocabulary = SETTINGS) -> Pair:
    found = candidates(Domain().texts(), old, wanted)
    old.save_pretrained(folder / "old")
    write(extended(byte_level(old), found.merges, found.pre_tokenizer), folder / "old", folder / "new")
    return old, load(folder / "new"), found


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    return [extend(tokenizer(family), tmp_path_factory.mktemp(family), wanted) for family, wanted in KINDS]


@pytest.fixture(scope="module", params=range(len(KINDS)), ids=NAMES)
def pair(request: pytest.FixtureRequest, pairs: list[Pair]) -> Pair:
    return pairs[request.param]


def test_the_words_of_the_domain_become_tokens(pair: Pair) -> None:
    old, new, found = pair
    for term in TERMS:
        assert len(encode(old, f"the {term}")) > 3
        assert len(encode(new, f"the {term}")) == 2
    for term in CHINESE_TERMS:
        assert len(encode(new, term)) < len(encode(old, term)) / 2
    assert 15 < len(found.terms) <= 60


def test_ids_follow_all_that_there_are_and_nothing_old_moves(pair: Pair) -> None:
    old, new, found = pair
    before, after = old.get_vocab(), new.get_vocab()
    assert {token: after[token] for token in before} == before
    first = max(before.values()) + 1
    assert [after[term.written] for term in found.terms] == list(range(first, first + len(found.terms)))
    assert len(new) == first + len(found.terms)
    require_same_special_tokens(old, new)
    assert found.pre_tokenizer is not None or type(new) is type(old)
    assert new.get_chat_template() == old.get_chat_template()
    message = [{"role": "user", "content": "no tube here"}]
    assert new.apply_chat_template(message)["input_ids"] == old.apply_chat_template(message)["input_ids"]


def test_saved_and_loaded_once_more_it_is_the_same(pair: Pair, tmp_path: Path) -> None:
    _, new, _ = pair
    new.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.get_vocab() == new.get_vocab()
    for text in strange_texts(200, new, TERMS, [], seed=4):
        assert encode(again, text) == encode(new, text)


def test_ten_thousand_strange_texts_are_never_longer_and_come_back(pairs: list[Pair]) -> None:
    real = [whole(text) for text in Domain().texts("held_out")]
    for old, new, found in pairs:
        check = compare(old, new, strange_texts(1_700, new, [term.text for term in found.terms], real, seed=1))
        assert (check.texts, check.longer) == (1_700, 0) and check.shorter > 250 and check.same > 250


CODE = st.lists(
    st.sampled_from(
        ["def ", "klystron", "_", "(", "self", ")", ":\n", "    ", "return ", "0x1F", "'s", '"', "//", "\t"]
    )
)
CHINESE = st.text(st.sampled_from("水轮机调速器在左右的。，0a "), max_size=40)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF), max_size=60),
    CHINESE,
    CODE.map("".join),
    st.lists(st.sampled_from([*TERMS, *CHINESE_TERMS, " ", "s", "\n", "-", "<|im_end|>", "<tool>", "的"])).map("".join),
    st.lists(st.sampled_from([*" thewaronmd,'_1\n\u0301的", " of the", " is on the", " mat", "ter", "'s", ", "])).map(
        "".join
    ),
)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_no_text_is_ever_longer(pairs: list[Pair], text: str) -> None:
    for old, new, _ in pairs:
        before, after = encode(old, text), encode(new, text)
        assert len(after) <= len(before)
        assert decode(new, after) == decode(old, before)
        # Special tokens that are meant as such, too.
        assert len(new(text)["input_ids"]) <= len(old(text)["input_ids"])


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_in_old_tokens_a_text_is_what_it_was(pairs: list[Pair], text: str) -> None:
    """Token distillation relies on it: a new token is exactly the old ones that it is made of."""
    for old, new, found in pairs:
        first = len(old)
        parts = [found.splits[token - first] if token >= first else (token,) for token in encode(new, text)]
        assert [token for part in parts for token in part] == encode(old, text)


def test_what_is_said_to_be_saved_is_saved(pair: Pair) -> None:
    old, new, found = pair
    texts = [whole(text) for text in Domain().texts()]
    check = compare(old, new, texts)
    assert check.tokens_before == found.tokens
    assert check.tokens_before - check.tokens_after == sum(term.frequency for term in found.terms)
    assert check.saving == pytest.approx(found.saving)
    for term in found.terms:
        assert sum(new.get_vocab()[term.written] in encode(new, text) for text in texts) <= term.documents
    stands = {term.written: 0 for term in found.terms}
    for text in texts:
        for token in new.convert_ids_to_tokens(encode(new, text)):
            if token in stands:
                stands[token] += 1
    assert stands == {term.written: term.stands for term in found.terms}


def test_terms_are_words_and_phrases_or_the_way_to_one(pair: Pair) -> None:
    old, _, found = pair
    most = 5 if found.pre_tokenizer else 1
    assert max(len(term.text.split()) for term in found.terms) == (4 if most == 5 else 1)
    parts = {part for merge in found.merges for part in merge}
    for term, split in zip(found.terms, found.splits, strict=True):
        assert "".join(old.convert_ids_to_tokens(split)) == term.written and len(split) == len(term.pieces) > 1
        assert may_become_term(term.written, most)
        assert is_term(term.written, most) or term.written in parts
        assert may_become_word(term.written) or term.text[0] in " ,"
    assert not any(letter.isdigit() for term in found.terms for letter in term.text)


def test_a_longer_text_or_a_lost_letter_is_found(pair: Pair) -> None:
    """The trial itself can fail: with the tokenizers exchanged, and with one that decodes otherwise."""
    old, new, _ = pair
    with pytest.raises(FathomError, match="longer"):
        compare(new, old, ["the klystron"])
    broken = json.loads(new.backend_tokenizer.to_str())
    broken["decoder"] = None
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(FathomError, match="back"):
        compare(old, PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(broken))), ["a klystron"])


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"min_frequency": 100_000}, None),
        ({"min_documents": 61}, "in too few documents"),
        ({"tokens": 3}, "over the limit of tokens"),
        ({"least_saving": 0.9}, None),
    ],
)
def test_limits_refuse_and_say_why(wanted: dict[str, Any], reason: str | None) -> None:
    found = candidates(Domain().texts(), tokenizer("gpt2"), SETTINGS.model_copy(update=wanted))
    assert 0 < len(found.terms) <= 3 if "tokens" in wanted else not found.terms
    if reason:
        assert found.refused[reason]["count"] > 0 and found.refused[reason]["examples"]


def test_digits_and_punctuation_are_refused_by_name() -> None:
    found = candidates(Domain().texts(), tokenizer("gpt2"), WORDS)
    assert found.refused["no words alone"]["count"] > 0


@pytest.mark.parametrize(
    ("text", "word", "way"),
    [
        ("klystron", True, True),
        (" klystron", True, True),
        ("水轮机", True, True),
        ("हिन्दी", True, True),
        ("e\u0301tude", True, True),
        ("  two", False, False),
        ("a1", False, False),
        ("a-b", False, False),
        (" ", False, True),
        ("a b", False, False),
    ],
)
def test_words_are_letters_of_any_script(text: str, word: bool, way: bool) -> None:
    assert (is_word(written(text)), may_become_word(written(text))) == (word, way)


def test_a_part_of_a_character_is_on_the_way_to_a_word() -> None:
    whole_word = written(" 水轮")
    for start in range(len(whole_word)):
        for end in range(start + 1, len(whole_word) + 1):
            assert may_become_word(whole_word[start:end])
    assert not is_word(whole_word[:-1])
    assert not may_become_word(written("水。"))


def refused_tokenizers() -> Iterator[tuple[str, Any]]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def fast(model: Any, pre: Any = None) -> Any:
        made = Tokenizer(model)
        if pre is not None:
            made.pre_tokenizer = pre
        return PreTrainedTokenizerFast(tokenizer_object=made)

    byte_level_pre = pre_tokenizers.ByteLevel()
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    yield "WordLevel", word_tokenizer()
    yield "Unigram", fast(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0), pre_tokenizers.Metaspace())
    yield "WordPiece", fast(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    yield "characters", fast(models.BPE(vocabulary, [("a", "b")], fuse_unk=False), pre_tokenizers.Metaspace())
    yield "SentencePiece", fast(models.BPE(vocabulary, [("a", "b")], byte_fallback=True), byte_level_pre)
    yield "dropout", fast(models.BPE(vocabulary, [("a", "b")], dropout=0.1), byte_level_pre)
    yield "ends of words", fast(models.BPE({**vocabulary, "b</w>": 3}, [], end_of_word_suffix="</w>"), byte_level_pre)


@pytest.mark.parametrize(("reason", "made"), [*refused_tokenizers()], ids=[name for name, _ in refused_tokenizers()])
def test_tokenizers_without_the_guarantee_are_refused_with_the_reason(reason: str, made: Any) -> None:
    with pytest.raises(UsageError, match=reason):
        byte_level(made)

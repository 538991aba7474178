"""Words are joined where no token reaches across and nowhere else, so that phrases become tokens and nothing longer."""

import json
from pathlib import Path
from typing import Any

import pytest
from domain_words import FAMILIES, LLAMA_3, Document, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.recipe import Vocabulary
from adapt.vocabulary.byte_level import byte_level, written
from adapt.vocabulary.phrases import GPT_2, is_phrase, joined, joining, joins, may_become_term
from adapt.vocabulary.terms import candidates
from adapt.vocabulary.tokenizer_file import compare, decode, encode, extended, load, strange_texts, write

O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ODD = r"\p{L}{1,3} ?|, ?|[^\p{L}]{2}"
"""A way that no tokenizer has: words in threes with the space behind, and characters that no piece has."""
PATTERNS = (GPT_2, LLAMA_3, O200K, ODD)
TEXTS = st.one_of(
    st.text(max_size=50),
    st.lists(st.sampled_from([*" aB'’,-_1.\n\t\r的é\u0301", "\u0939\u093f", "'s", ", ", " of", "İ", "\u200d"])).map(
        "".join
    ),
)
PHRASE = "National Institutes of Health"


def pieces(pattern: str, text: str) -> list[tuple[int, int]]:
    from tokenizers import Regex, pre_tokenizers

    return [place for _, place in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)]


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_pieces_are_joined_and_never_cut_elsewhere(text: str) -> None:
    for pattern in PATTERNS:
        before, after = pieces(pattern, text), pieces(joined(pattern), text)
        starts = {start for start, _ in before}
        assert {start for start, _ in after} <= starts
        for start in starts - {start for start, _ in after}:
            left, right = text[start - 1], text[start]
            assert (left.isalpha() and right in " ,'") or (left == "," and right == " ")


def test_runs_of_words_are_joined_across_spaces_commas_and_the_rest_of_isnt() -> None:
    text = "It isn't, I think, the cat's: two  spaces, 3 cats, a_b and\nthe end"
    assert [text[start:end] for start, end in pieces(joined(GPT_2), text)] == [
        "It isn't, I think, the cat's",
        ":",
        " two",
        " ",
        " spaces",
        ",",
        " 3",
        " cats, a",
        "_",
        "b and",
        "\n",
        "the end",
    ]


def test_a_megabyte_of_words_is_split_and_not_the_end_of_the_program() -> None:
    """Oniguruma breaks off a match of very many steps, which stops the whole process."""
    for pattern in (GPT_2, LLAMA_3):
        assert 1 < len(pieces(joined(pattern), "a " * 500_000)) < 10_000


@pytest.mark.parametrize(
    ("text", "phrase", "way"),
    [
        (" of the", True, True),
        (", and the", True, True),
        (", and", True, True),
        (" it isn't", True, True),
        (" der Größe", True, True),
        ("of the", False, False),
        (" of the,", False, True),
        (" isn'", False, True),
        (" of  the", False, False),
        (" of the ", False, False),
        (" of the 3", False, False),
        (" of-the", False, False),
        ("\nof the", False, False),
        (" one two three four", False, False),
        (",", False, False),
        (" ", False, True),
    ],
)
def test_phrases_are_words_with_one_space_before_each(text: str, phrase: bool, way: bool) -> None:
    assert (is_phrase(written(text), 3), may_become_term(written(text), 3)) == (phrase, way)


def test_with_one_word_at_most_there_are_no_phrases() -> None:
    assert not may_become_term(written(" of the"), 1) and may_become_term(written(" of"), 1)


def test_half_a_letter_is_on_the_way_to_a_phrase() -> None:
    whole = written(" la façade")
    for end in range(2, len(whole) + 1):
        assert may_become_term(whole[:end], 2) or whole[:end] == written(" la ")
    assert not may_become_term(whole, 1)


def changed(made: Any, change: Any) -> Any:
    """The tokenizer with its tokenizer.json changed."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = json.loads(made.backend_tokenizer.to_str())
    change(file)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(file)))


def test_a_tokenizer_without_the_guarantee_stays_with_single_words_and_says_why() -> None:
    def spaced(file: Any) -> None:
        file["pre_tokenizer"]["add_prefix_space"] = True

    def across(file: Any) -> None:
        number = len(file["model"]["vocab"])
        file["model"]["vocab"] |= {"eĠ": number, "eĠa": number + 1}
        file["model"]["merges"] += [["e", "Ġ"], ["eĠ", "a"]]

    def merged(file: Any) -> None:
        file["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"

    for family, change, reason in (
        ("gpt2", spaced, "a space before"),
        ("gpt2", across, "reaches across"),
        ("qwen", merged, "a way of its own"),
    ):
        made = changed(tokenizer(family), change)
        found = joining(byte_level(made))
        assert isinstance(found, str) and reason in found
        listed = candidates(papers(), made, Vocabulary(tokens=20, least_saving=0, words_at_most=4))
        assert listed.words_only == found and listed.pre_tokenizer is None and listed.terms
        assert not any(" " in term.text.strip() for term in listed.terms)


def papers(number: int = 40) -> list[Document]:
    others = ("Healthcare at the", f"{PHRASE}'s", f"in the {PHRASE}, and", "the mat")
    return [Document(str(n), f"the {PHRASE} and {others[n % 4]} dog {n}. by {PHRASE}") for n in range(number)]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    old, folder = tokenizer(request.param), tmp_path_factory.mktemp(request.param)
    old.save_pretrained(folder / "old")
    wanted = Vocabulary(tokens=80, least_saving=0, words_at_most=4, min_documents=20)
    found = candidates(papers(), old, wanted, model=folder / "old")
    assert f" {PHRASE}" in [term.text for term in found.terms] and found.facts()["phrases"] > 1
    write(extended(byte_level(old), found.merges, found.pre_tokenizer), folder / "old", folder / "new")
    return old, load(folder / "new")


@pytest.mark.parametrize("after", ["", ".", "'s", "care", "\u0301", "_", "1", " care", ", care", "\n", "的", "’s", "-"])
@pytest.mark.parametrize("before", ["", "the", "the ", "\n", "  ", "a,", "1", "_", "<|im_end|>"])
def test_a_phrase_beside_anything_is_no_longer_and_comes_back(made: tuple[Any, Any], before: str, after: str) -> None:
    old, new = made
    text = f"{before} {PHRASE}{after}"
    check = compare(old, new, [text])
    assert check.tokens_before - check.tokens_after > 10
    assert decode(new, encode(new, text)) == text or "\u0301" in text  # Qwen's NFC composes h and the accent or not
    assert decode(new, encode(new, text)) == decode(old, encode(old, text))


def test_openvino_reads_the_same_tokens_out_of_a_folder(made: tuple[Any, Any]) -> None:
    """Its tokenizers split by expressions of their own (PCRE2). It composes unassigned characters otherwise than NFC
    does, with phrases or without."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    _, new = made
    words = openvino.compile_model(convert_tokenizer(new, add_special_tokens=False), "CPU")
    real = [text.text for text in papers()]
    for text in (*strange_texts(200, new, [f" {PHRASE}", " of the"], real, seed=5), *real, f"a {PHRASE}care's"):
        if "\0" not in text and (type(new.backend_tokenizer.normalizer).__name__ != "NFC" or text.isascii()):
            assert words([text])["input_ids"][0].tolist() == new(text, add_special_tokens=False)["input_ids"]


def test_what_has_phrases_can_be_extended_with_more(made: tuple[Any, Any], tmp_path: Path) -> None:
    old, new = made
    new.save_pretrained(tmp_path / "new")
    more = [Document(str(n), f"the dog is on a log and the dog is on a mat, the {PHRASE}") for n in range(40)]
    found = candidates(more, new, Vocabulary(tokens=20, least_saving=0, words_at_most=5), model=tmp_path / "new")
    assert found.words_only is None and joins(found.pre_tokenizer) and found.terms
    write(extended(byte_level(new), found.merges, found.pre_tokenizer), tmp_path / "new", tmp_path / "newer")
    newer = load(tmp_path / "newer")
    assert compare(new, newer, [text.text for text in papers() + more]).saving > 0.1


def test_where_transformers_takes_its_own_class_there_are_words_alone(tmp_path: Path) -> None:
    """transformers 5.23 gives a model of the kind qwen2 its Qwen2Tokenizer whatever tokenizer_config.json names."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    words = tokenizer("qwen")
    wanted = Vocabulary(tokens=80, least_saving=0, words_at_most=4)
    for config, possible in ((Qwen2Config, False), (Qwen3Config, True), (LlamaConfig, True)):
        model = tmp_path / config.__name__
        words.save_pretrained(model)
        config().save_pretrained(model)
        old = load(model)
        found = candidates(papers(), old, wanted, model=model)
        assert (found.words_only is None) is possible and (found.pre_tokenizer is not None) is possible
        write(extended(byte_level(old), found.merges, found.pre_tokenizer), model, tmp_path / "new")
        (tmp_path / "new" / "config.json").write_bytes((model / "config.json").read_bytes())
        check = compare(old, load(tmp_path / "new"), [text.text for text in papers()])
        assert check.tokens_before - check.tokens_after == sum(term.frequency for term in found.terms)


def test_without_a_phrase_the_tokenizer_splits_as_before() -> None:
    """So that it can be exported to whatever knew how it split."""
    texts = [Document(str(n), f"klystron.{n} klystron") for n in range(40)]
    found = candidates(texts, tokenizer("gpt2"), Vocabulary(tokens=9, least_saving=0, words_at_most=4))
    assert " klystron" in [term.text for term in found.terms]
    assert found.pre_tokenizer is None and found.facts()["phrases"] == 0

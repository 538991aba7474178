"""Encodings: every text comes back exactly or is refused by name; nothing is lost without a word."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.reading.encodings import decode
from retrieval.reading.refusal import Refusal

CHINESE = "合同自双方签字之日起生效。甲方应当在三十日内支付全部款项，否则视为违约。"
TAIWAN = "契約自雙方簽字之日起生效。甲方應當在三十日內支付全部款項，否則視為違約。"
JAPANESE = "これは日本語のテキストです。東京は日本の首都である。"
KOREAN = "이것은 한국어 텍스트입니다. 서울은 대한민국의 수도이다."
GERMAN = "Größe ändern: Fußgänger überqueren die Straße – für „5 €“."
FRENCH = "Où est le café déjà vu à l’hôtel ? Ça coûte 5 francs, s’il vous plaît."
SPANISH = "El niño comió ñoquis en Málaga. ¿Qué pasó después?"
RUSSIAN = "Привет, мир! Это проверка кодировки текста на русском языке."
GREEK = "Αυτό είναι ένα κείμενο στα ελληνικά για δοκιμή."
POLISH = "Zażółć gęślą jaźń. Łódź jest pięknym miastem w Polsce."
ENGLISH = "Plain words, nothing more.\nSecond line.\n"

CASES = [
    *(
        (ENGLISH, e)
        for e in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    ),
    *((CHINESE, e) for e in ("utf-8", "utf-8-sig", "gbk", "gb18030", "gb2312", "hz")),
    *((CHINESE, e) for e in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")),
    *((TAIWAN, e) for e in ("utf-8", "big5", "cp950", "big5hkscs", "utf-16", "utf-16-le", "utf-16-be")),
    *((JAPANESE, e) for e in ("shift_jis", "cp932", "euc_jp", "iso2022_jp", "utf-16-le")),
    *((KOREAN, e) for e in ("euc_kr", "cp949", "utf-16-be")),
    (GERMAN, "cp1252"),
    (FRENCH.replace("’", "'"), "latin-1"),
    (FRENCH, "cp1252"),
    (SPANISH, "latin-1"),
    ("Schrödinger", "latin-1"),
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"),
    (GREEK, "cp1253"),
    (POLISH, "cp1250"),
    (POLISH, "iso8859-2"),
]


def test_the_table_of_encodings_is_long_enough() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize(("text", "encoding"), CASES, ids=[f"{e}-{t[:6]}" for t, e in CASES])
def test_text_of_every_encoding_comes_back_exactly(text: str, encoding: str) -> None:
    decoded = decode(text.encode(encoding))
    assert decoded.text == text
    assert decoded.replaced == 0


@pytest.mark.parametrize(
    ("data_set", "encodings", "least"),
    [("xquad_zh", ("gb18030", "utf-16-le", "utf-16-be", "utf-8"), 0.98), ("drcd", ("cp950", "utf-16-le"), 0.97)],
)
def test_short_chinese_snippets_are_told_apart(
    shared_data: Callable[[str], Path], data_set: str, encodings: tuple[str, ...], least: float
) -> None:
    """Sixteen characters suffice. charset-normalizer alone gets 141 of 200 such snippets in GB 18030 right."""
    lines = (shared_data(data_set) / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"].replace("\ufeff", "") for line in lines]
    chance = random.Random(7)
    for encoding in encodings:
        right = total = 0
        while total < 150:
            text = chance.choice(texts)
            start = chance.randrange(max(1, len(text) - 16))
            snippet = text[start : start + 16]
            try:
                data = snippet.encode(encoding)
            except UnicodeEncodeError:
                continue
            total += 1
            try:
                right += decode(data).text == snippet
            except Refusal:
                pass
        assert right >= least * total, (encoding, right, total)


def test_whole_gbk_documents_keep_every_character(shared_data: Callable[[str], Path]) -> None:
    """LlamaIndex's SimpleDirectoryReader drops 53 % of such a file."""
    lines = (shared_data("xquad_zh") / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:60]:
        text = json.loads(line)["text"].replace("\ufeff", "")
        decoded = decode(text.encode("gb18030"))
        assert decoded.text == text and decoded.sure


def test_a_declared_encoding_wins_over_guessing() -> None:
    assert decode("天地".encode("gbk"), "gb2312").text == "天地"
    assert decode("naïve".encode(), "latin-1").text == "naïve", "strict UTF-8 is no accident"


def test_a_wrong_declaration_does_no_harm() -> None:
    assert decode(CHINESE.encode("gbk"), "big5").text == CHINESE
    assert decode(CHINESE.encode("gbk"), "no-such-codec").text == CHINESE
    assert decode(CHINESE.encode("gbk"), "zip").text == CHINESE


def test_a_cut_or_damaged_utf8_file_is_kept_and_reported() -> None:
    cut = (CHINESE * 3).encode()[:-1]
    decoded = decode(cut)
    assert decoded.text[:-1] == (CHINESE * 3)[:-1]
    assert decoded.replaced == 1
    assert "lossy decode" in decoded.warnings()[0]
    stray = decode((ENGLISH * 20).encode() + b"\xff" + (CHINESE * 5).encode())
    assert stray.replaced == 1 and stray.text.count("\ufffd") == 1


def test_the_writers_own_replacement_characters_are_not_losses() -> None:
    assert decode("a \ufffd b 中文".encode()).replaced == 0


def test_a_cut_utf16_file_is_kept_and_reported() -> None:
    decoded = decode(("\ufeff" + CHINESE * 2).encode("utf-16-le")[:-1])
    assert decoded.text[:-1] == (CHINESE * 2)[:-1] and decoded.replaced == 1


def test_bytes_that_are_no_text_are_refused() -> None:
    chance = random.Random(3)
    for size in (60, 500, 5_000, 100_000):
        with pytest.raises(Refusal) as caught:
            decode(chance.randbytes(size))
        assert caught.value.reason in ("binary", "encoding")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_utf8_is_always_itself(text: str) -> None:
    assert decode(text.encode()).text == text.removeprefix("\ufeff")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    """And a decode that is not lossy can be undone: no byte went missing."""
    try:
        decoded = decode(data)
    except Refusal:
        return
    if decoded.replaced == 0 and decoded.encoding in ("utf-8", "latin-1", "cp1252"):
        assert data.removeprefix(b"\xef\xbb\xbf") == decoded.text.encode(decoded.encoding)

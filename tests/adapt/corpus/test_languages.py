"""Telling languages: English, Chinese and code are right where it matters, and short texts are not guessed at."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.corpus.languages import is_code, language, require_known
from retrieval.errors import UsageError

SENTENCES = {
    "en": "The valve is open, and nobody knows why.",
    "zh": "阀门开着",
    "ja": "これはペンです。",
    "de": "Das ist ein kurzer Satz über Hunde.",
    "fr": "Le chat est sur la table de la cuisine.",
    "ru": "Сегодня очень хорошая погода, и мы идём гулять.",
    "ko": "오늘은 날씨가 아주 좋네요",
}
PYTHON = "import os\n\ndef size(path):\n    found = os.stat(path)\n    return found.st_size\n"


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_enough(name: str) -> None:
    if name == "zh":
        assert language("黑豹队的防守") == "zh" and language("台灣的天氣很好") == "zh"
    else:
        assert language(SENTENCES[name]) == name


@pytest.mark.parametrize("text", ["", "  ", "42", "好", "Yes.", "Is Retinoblastoma inherited ?"])
def test_what_does_not_show_its_language_gets_none(text: str) -> None:
    assert language(text) is None


def test_code_is_told_from_prose_with_a_line_of_it() -> None:
    assert language(PYTHON) == "code"
    assert language("int f(int a) {\n  return a + 1;\n}\n") == "code"
    prose = "The function returns a size. It is called once for each of the files.\nPass it a path.\n    size(path)\n"
    assert not is_code(prose) and language(prose) == "en"


def test_chinese_with_latin_terms_is_chinese_and_english_with_a_chinese_word_is_english() -> None:
    assert language("使用 LoRA 对 SmolLM2-135M 进行 fine-tuning 的步骤如下") == "zh"
    assert language("The Chinese word for valve is 阀门, and it is found in every manual of the plant.") == "en"


def test_a_name_that_is_no_code_is_refused_with_the_nearest() -> None:
    require_known(["en", "zh", "de"])
    with pytest.raises(UsageError, match="'zh-CN' is no ISO 639-1 code.*did you mean 'zh'"):
        require_known(["zh-CN"])


@pytest.mark.slow
def test_english_and_chinese_documents_are_right_on_real_ones(shared_data: Callable[[str], Path]) -> None:
    def found(file: str) -> Counter[str | None]:
        lines = shared_data(file).read_text("utf-8").splitlines()
        return Counter(language(json.loads(line)["text"]) for line in lines)

    assert found("xquad_zh/corpus.jsonl") == {"zh": 240}
    assert found("drcd/corpus.jsonl") == {"zh": 1_000}
    english = found("xquad_en/corpus.jsonl")
    assert english["en"] == english.total() == 240
    queries = found("xquad_zh/queries.jsonl")
    assert queries["zh"] > 0.99 * queries.total() and set(queries) <= {"zh", None}

"""What text becomes for lexical search, and that it costs no more than the text is long."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.chinese_words import words_of_run
from retrieval.tokenising import MAX_LENGTH, TOKENISER_VERSION, query_tokens, tokens

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Running the dogs' races", ["run", "the", "dog", "race"]),
        ("John's don’t O'Reilly l’homme", ["john", "dont", "oreilli", "homm"]),
        ("e-mail pre-training", ["email", "mail", "pretrain", "pre", "train"]),
        ("COVID-19 IL-6", ["covid19", "covid", "19", "il6", "il", "6"]),
        ("U.S.A. e.g.", ["usa", "eg"]),
        ("naïve cafe\u0301 Straße Ёлка ﬁne", ["naiv", "cafe", "strass", "елка", "fine"]),
        ("ＦＵＬＬ ｗｉｄｔｈ １２３ x²", ["full", "width", "123", "x2"]),
        ("inter\u00adnational", ["internat"]),
        ("हिन्दी العَرَبِيَّة", ["हिन्दी", "العربية"]),
        ("", []),
        ("?! ... -- 🔥 ≥", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("get_user_name", ["get_user_name", "get", "user", "name"]),
        ("getUserName", ["getusernam", "get", "user", "name"]),
        ("HTTPServer GPUs", ["httpserver", "http", "server", "gpus"]),
        ("torch.nn.Linear", ["torch.nn.linear", "torch", "nn", "linear"]),
        ("__init__ self._x", ["__init__", "init", "self._x", "self"]),
        ("std::vector<int> a/b key:value", ["std", "vector", "int", "a", "b", "key", "valu"]),
        ("C++ C# C++17", ["c++", "c#", "c++", "17"]),
        ("user@example.com", ["user@example.com", "user", "exampl", "com"]),
        ("https://docs.python.org/3/re", ["https", "docs.python.org", "doc", "python", "org", "3", "re"]),
        ("x=1,y", ["x", "1", "y"]),
    ],
)
def test_code_and_addresses_are_kept_whole_and_in_parts(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5 1234.5", ["1234.5", "1234.5"]),
        ("3.11 3.11.4 10:30", ["3.11", "3.11.4", "10:30"]),
        ("PEP-8", ["pep8", "pep", "8"]),
        ("2026-11-22", ["20261122", "2026", "11", "22"]),
        ("1,2,3", ["1", "2", "3"]),
    ],
)
def test_numbers(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("email", "an e-mail"),
        ("E-Mail", "Email"),
        ("covid19", "COVID-19"),
        ("minilm", "all-MiniLM-L6-v2 or MiniLM"),
        ("linear", "torch.nn.Linear(3)"),
        ("1234.5", "it cost 1,234.5"),
        ("usa", "the U.S.A."),
        ("训练", "模型的训练方法"),
        ("茶", "他每天喝茶读书"),
        ("ｐｙｔｈｏｎ", "Python3 and Python"),
    ],
)
def test_query_meets_text(query: str, text: str) -> None:
    assert set(query_tokens(query)) & set(tokens(text))


def test_chinese_gives_bigrams_characters_and_words() -> None:
    found = tokens("研究生命起源")
    assert found[:11] == ["研究", "究生", "生命", "命起", "起源", "研", "究", "生", "命", "起", "源"]
    assert set(words_of_run("中华人民共和国成立")) >= {"中华人民共和国", "共和国", "成立"}
    assert tokens("茶") == ["茶"]
    assert tokens("Python编程3") == ["python", "编程", "编", "程", "3"]


def test_jieba_neither_reads_nor_writes_a_shared_cache_nor_talks(tmp_path: Path) -> None:
    # jieba loads `jieba.cache` from the temporary folder with marshal: whoever put it there would decide what it does.
    (tmp_path / "jieba.cache").write_bytes(b"planted")
    script = "from retrieval.tokenising import tokens; print(len(tokens('中华人民共和国成立')))"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 17
    assert done.stderr == ""
    assert (tmp_path / "jieba.cache").read_bytes() == b"planted"
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
    assert tempfile.gettempdir() != str(tmp_path)


def test_english_needs_no_jieba() -> None:
    script = (
        "import sys; from retrieval.tokenising import tokens; tokens('plain English'); print('jieba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_long_words_are_cut_not_dropped() -> None:
    found = tokens("a" * 150 + " " + "b." * 100)
    assert [len(token) for token in found[:3]] == [64, 64, 22]
    assert found[3:] == ["b"] * 100


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    found = tokens(text)
    assert all(token and not any(map(str.isspace, token)) for token in found)
    assert query_tokens(text) == list(dict.fromkeys(found))
    assert tokens(text) == found
    # Every letter or digit stays somewhere: nothing readable is lost.
    plain = [character for character in text if character.isascii() and character.isdigit()]
    assert all(any(character in token for token in found) for character in plain)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("abcXYZ019", min_size=1, max_size=9), max_size=10))
def test_case_and_width_change_no_plain_word(words: list[str]) -> None:
    text = " ".join(words)
    wide = "".join(chr(ord(character) + 0xFEE0) if character != " " else " " for character in text)
    assert tokens(wide.lower()) == tokens(text.lower())


HOSTILE = {
    "no space": "a" * 20_000,
    "dots": "." * 20_000,
    "dotted": "a." * 10_000,
    "joints": "a-'" * 7_000,
    "camels": "aB" * 10_000,
    "Chinese": "研究生命起源" * 3_000,
    "accents": "a" + "\u0301\u0327" * 10_000,
    "joiners": "\u200d" * 20_000,
    "numbers": "1," * 10_000,
    "plus": "C+" * 10_000,
    "expanding": "\ufdfa" * 10_000,
    "Thai": "สวัสดี" * 3_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_text_not_faster(name: str) -> None:
    def seconds(text: str) -> float:
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            found = tokens(text)
            best = min(best, time.process_time() - start)
        assert max(map(len, found), default=0) <= 18 * MAX_LENGTH  # U+FDFA is 15 letters in compatibility form
        return best

    tokens("研究生命")  # loads jieba
    unit = HOSTILE[name]
    assert seconds(unit * 8) < 20 * seconds(unit) + 0.1


def test_version_names_what_decides_the_tokens() -> None:
    assert all(part in TOKENISER_VERSION for part in ("snowball=", "jieba=", "unicode="))
    json.dumps(TOKENISER_VERSION)

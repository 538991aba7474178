"""Quality rules: each drops what it is for, and none drops prose, source code or Chinese."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.corpus.quality import REASONS, fault

ROOT = Path(__file__).resolve().parents[3]
GOOD = {
    "prose": "Valves are inspected every ninety days, and the report is filed with the plant's engineer.",
    "chinese": "阀门每九十天检查一次，报告随后交给工程师。",
    "python": "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total\n",
    "c": "int main(void) {\n  for (int i = 0; i < 10; i++) {\n    a[i] = b[i] * 2;\n  }\n  return 0;\n}\n",
    "list": "\n".join(f"- {word} and more of it" for word in "apples pears plums figs nuts dates limes".split()),
    "german": "Die Donaudampfschifffahrtsgesellschaft prüft Sicherheitsventile alle neunzig Tage.",
}
BAD = {
    "too-short": "Topics",
    "symbols": "+---+---+\n| x | y |\n+---+---+\n" * 20,
    "numbers": "\n".join(f"{n}, {n * 37 % 1000:.3f}, {n * 91 % 777:.2f} row" for n in range(50)),
    "garbled": "The valve \ufffd\ufffd\ufffd\ufffd is open and the pump is shut.",
    "unbroken": base64.b16encode(random.Random(0).randbytes(400)).decode().lower().replace("0", "g").translate(
        str.maketrans("123456789", "hijklmnop")
    ),
    "repeated-lines": "Click here to subscribe now\n" * 30 + "One line that says something else entirely\n",
    "repeated-words": "buy our new valve today and " * 60,
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_prose_code_and_chinese_stay(name: str) -> None:
    assert fault(GOOD[name]) is None


@pytest.mark.parametrize("reason", BAD)
def test_each_rule_drops_what_it_is_for_and_says_the_figure(reason: str) -> None:
    found = fault(BAD[reason])
    assert found is not None and found.reason == reason and found.detail


def test_every_reason_has_an_example_and_words() -> None:
    assert set(BAD) == set(REASONS)


def test_no_document_of_the_handbook_and_no_file_of_this_project_is_dropped() -> None:
    files = [*(ROOT / "data/handbook/documents").rglob("*.md"), *(ROOT / "adapt").rglob("*.py")]
    files = [file for file in files if file.stat().st_size > 100]
    assert len(files) > 50
    dropped = {file.name: found for file in files if (found := fault(file.read_text("utf-8"))) is not None}
    assert not dropped


def test_no_chinese_paragraph_is_dropped(shared_data: Callable[[str], Path]) -> None:
    lines = shared_data("xquad_zh/corpus.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 240 and not [text for text in texts if fault(text) is not None]

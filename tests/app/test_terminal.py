"""What is printed is what was meant: hostile text cannot act on a terminal, JSON reads back, tables survive a pipe."""

import json
import logging

import pytest

from app.terminal import LogNotes, Terminal, clean, count, one_line, seconds, to_json

HOSTILE = {
    "\x1b[31mred\x1b[0m": "red",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\": "link",
    "\x1b]0;new title\x07after": "after",
    "\x1b[2J\x1b[1;1Hcleared": "cleared",
    "\x9b31mred": "red",
    "\x1bPq#0;2;0;0;0\x1b\\sixel": "sixel",
    "a\rb": "a\nb",
    "back\x08space": "backspace",
    "user\u202egnp.exe": "usergnp.exe",
    "tag\U000e0041s": "tags",
    "name\udcff": "name\ufffd",
    "tab\tand\nline": "tab\tand\nline",
    "中文，没有变化": "中文，没有变化",
    "cut off \x1b[": "cut off ",
    "\x1b]unterminated": "",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_cleaning_leaves_nothing_a_terminal_acts_on(text: str) -> None:
    assert clean(text) == HOSTILE[text]
    assert not any(ord(c) < 32 and c not in "\t\n" or 0x7F <= ord(c) <= 0x9F for c in clean(text))


def test_one_line_has_no_line_breaks() -> None:
    assert one_line("a\n\n b\u2028c\td") == "a bc d"


@pytest.mark.parametrize("text", [*HOSTILE, "\u2028", "𝔘", "\ud800", 'a"b\\'])
def test_json_is_lossless_and_harmless(text: str) -> None:
    written = to_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert "\x1b" not in written and "\x9b" not in written and "\u202e" not in written
    written.encode("utf-8")


def test_json_keeps_chinese_readable() -> None:
    assert "检索" in to_json(["检索"])


def test_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))


def test_tables_are_tab_separated_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().table(("a", "b"), [("x" * 300, "1\t2"), ("[bold]no markup[/bold]", ":smile:")])
    assert capsys.readouterr().out == f"a\tb\n{'x' * 300}\t1 2\n[bold]no markup[/bold]\t:smile:\n"


def test_answers_go_to_stdout_and_remarks_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.line("answer\x1b[31m " + "long " * 60)
    terminal.note("remark")
    terminal.done("worked")
    captured = capsys.readouterr()
    assert captured.out == "answer " + "long " * 60 + "\n"
    assert captured.err.startswith("remark\nworked in 0.0")


def test_programs_get_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=True).done("worked")
    assert capsys.readouterr() == ("", "")


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress() as show:
        show("embedding", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_durations_and_counts_in_words() -> None:
    assert [seconds(0.041), seconds(12.3), seconds(75)] == ["0.04 s", "12 s", "1 min 15 s"]
    assert [count(1, "document"), count(2000, "document"), count(0, "match", "matches")] == [
        "1 document",
        "2,000 documents",
        "0 matches",
    ]


def test_only_our_own_warnings_and_others_errors_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogNotes()
    for name, level in (("retrieval.x", 30), ("retrieval.x", 20), ("faiss.loader", 30), ("faiss.loader", 40)):
        logging.getLogger(name).addHandler(handler)
        record = logging.LogRecord(name, level, "", 0, "%s \x1b[31m\nlevel %d", (name, level), None)
        if level >= handler.level:
            handler.handle(record)
        logging.getLogger(name).removeHandler(handler)
    assert capsys.readouterr().err == "note: retrieval.x level 30\nnote: faiss.loader level 40\n"

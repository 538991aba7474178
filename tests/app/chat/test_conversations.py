"""Conversations on disk: what was acknowledged survives a kill; a file that cannot be used is said, not suffered."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.chat.conversations import Conversations, title_of
from app.chat.turns import Asked, Mark, Note, Turn
from retrieval.passages import Citation, Hit, Passage, Scores, Source

ROOT = Path(__file__).parents[3]
ASKED = Asked("plant", True, 6, ("year>=2020", "path~文件*"), "laptop")


def full(turn: Turn) -> Turn:
    """The same turn with something in every field."""
    passage = Passage(7, 3, 0, 10, 30, 2, ("Safety", "阀门"), "Close the valve 阀门.", 9)
    hit = Hit(1, 0.9, passage, Source(3, "pump.md", "Pump", "md", "local", {}), Scores(0.5, None, 0.9, None))
    return replace(
        turn, state="done", text="Close it [1]. 关闭。\n\x00", checked=True, model="tiny", hits=(hit,), given=1,
        citations=(Citation(1, "pump.md", "Pump", 2, 10, 15, "Close", "yes", 7),), queries=("q", "q and more"),
        timings={"search": 1.5}, clock={"total": 2.0},
        notes=(Note("note", "too_long", {"n": 3}), Note("error", text="x")),
        marks=(Mark(0, 5, "name"),), confidence=1.5, threshold=1.0, prompt_version="3",
    )  # fmt: skip


def test_a_turn_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    kept = Conversations(tmp_path / "chats.sqlite")
    turn = full(kept.begin("", "How is 阀门 closed?", ASKED))
    kept.save(turn)
    kept.close()
    again = Conversations(tmp_path / "chats.sqlite")
    assert again.turns(turn.chat) == [turn] and again.problem == ""
    (chat,) = again.newest()
    assert (chat.id, chat.title, chat.asked) == (turn.chat, "How is 阀门 closed?", ASKED)
    assert (tmp_path / "chats.sqlite").stat().st_mode & 0o077 == 0, "what was asked is nobody else's business"
    again.close()


def test_the_conversation_used_last_comes_first() -> None:
    kept = Conversations(None)
    first, second = (kept.begin("", question, Asked()) for question in ("one", "two"))
    assert [chat.title for chat in kept.newest()] == ["two", "one"]
    kept.save(replace(first, state="done"))
    assert [chat.title for chat in kept.newest()] == ["one", "two"]
    kept.rename(second.chat, "  another \n title ")
    kept.rename(first.chat, "  ")
    assert {chat.title for chat in kept.newest()} == {"one", "another title"}


def test_deleted_is_deleted_and_what_is_saved_later_does_not_bring_it_back(tmp_path: Path) -> None:
    kept = Conversations(tmp_path / "chats.sqlite")
    turn = kept.begin("", "a secret question of mine", Asked())
    kept.save(replace(turn, text="a secret answer"))
    kept.delete(turn.chat)
    kept.save(replace(turn, text="more of the answer", state="done"))
    assert kept.newest() == [] and kept.turns(turn.chat) == [] and kept.conversation(turn.chat) is None
    kept.close()
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret" not in left


def test_replaced_turns_leave_the_conversation_and_stay_in_the_file() -> None:
    kept = Conversations(None)
    turns = [kept.begin("", "one", Asked())]
    turns += [kept.begin(turns[0].chat, question, Asked()) for question in ("two", "three")]
    other = kept.begin("", "elsewhere", Asked())
    new = kept.begin(turns[0].chat, "two, better", Asked(), replaces=turns[1].id)
    assert [turn.question for turn in kept.turns(new.chat)] == ["one", "two", "three", "two, better"]
    kept.replace(new)
    assert [turn.question for turn in kept.turns(new.chat)] == ["one", "two, better"]
    assert [turn.question for turn in kept.versions(new.chat)] == ["one", "two", "three", "two, better"]
    assert [turn.question for turn in kept.turns(other.chat)] == ["elsewhere"]


def test_a_long_question_becomes_a_short_title() -> None:
    assert title_of("Why?\n\nBecause   of this") == "Why? Because of this"
    assert len(title_of("word " * 500)) <= 80 and title_of("word " * 500).endswith("…")


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from app.chat.conversations import Conversations
from app.chat.turns import Asked

kept = Conversations(Path(sys.argv[1]))
chat = ""
for number in range(100_000):
    turn = kept.begin(chat, f"question {number}", Asked())
    chat = turn.chat
    text = ""
    for _ in range(3):
        text += f"answer {number} "
        kept.save(replace(turn, text=text))
        print(f"{number} running {len(text)}", flush=True)
    if number % 5 != 4:  # each fifth answer is never finished
        kept.save(replace(turn, text=text, state="done"))
        print(f"{number} done {len(text)}", flush=True)
"""


@pytest.mark.parametrize("seconds", [0.3, 0.45, 0.6])
def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "chats.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    lines = [first, *process.stdout.read().splitlines(keepends=True)]
    process.wait()
    said = {}
    for line in lines:
        if line.endswith("\n"):
            number, state, length = line.split()
            said[int(number)] = (state, int(length))
    assert len(said) > 2
    kept = Conversations(path)
    assert kept.problem == ""
    (chat,) = kept.newest()
    turns = kept.turns(chat.id)
    assert [turn.question for turn in turns] == [f"question {number}" for number in range(len(turns))]
    assert len(turns) >= len(said)
    for number, (state, length) in said.items():
        assert len(turns[number].text) >= length
        assert state == "running" or turns[number].state == "done"
        assert turns[number].state in ("done", "cut"), "nothing is running after a start"
    kept.close()


def test_a_second_server_shows_what_there_is_and_says_that_it_saves_nothing(tmp_path: Path) -> None:
    first = Conversations(tmp_path / "chats.sqlite")
    turn = first.begin("", "one", Asked())
    second = Conversations(tmp_path / "chats.sqlite")
    assert second.problem == "busy" and [chat.title for chat in second.newest()] == ["one"]
    assert first.turns(turn.chat)[0].state == "running", "the first one still writes it"
    second.begin("", "two", Asked())
    assert [chat.title for chat in first.newest()] == ["one"] and len(second.newest()) == 2
    second.close()
    first.close()


def test_a_file_held_by_another_program_is_not_waited_for_long(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    kept = Conversations(path, busy_seconds=0.1)
    turn = kept.begin("", "one", Asked())
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    kept.save(replace(turn, text="written down in memory"))
    assert kept.problem == "busy"
    assert kept.turns(turn.chat)[0].text == "written down in memory", "what was there before came along"
    holder.execute("ROLLBACK")
    holder.close()
    kept.close()


def test_a_damaged_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    path.write_bytes(b"this was never a database" * 400)
    kept = Conversations(path)
    assert kept.problem == "damaged"
    turn = kept.begin("", "asked all the same", Asked())
    assert kept.turns(turn.chat) and path.read_bytes() == b"this was never a database" * 400
    kept.close()


def test_a_file_that_is_damaged_under_way_takes_no_answer_along(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    kept = Conversations(path)
    for n in range(40):
        kept.save(full(kept.begin("", f"question {n} " + "x" * 3000, Asked())))
    kept.close()
    kept = Conversations(path)
    turn = kept.begin("", "the newest", Asked())
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 2048)
    kept._db.execute("PRAGMA cache_size=0")
    kept.save(full(turn))
    for _ in range(3):
        kept.newest()
    assert kept.problem == "damaged"
    kept.save(replace(full(turn), text="goes on"))
    assert [item.text for item in kept.turns(turn.chat)] == ["goes on"]
    kept.close()


def test_a_file_of_a_newer_fathom_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE of_tomorrow (x)")
        db.execute("PRAGMA user_version=99")
    kept = Conversations(path)
    assert kept.problem == "newer" and kept.newest() == []
    kept.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("of_tomorrow",)]


def test_a_full_disk_is_said_and_the_answer_goes_on(tmp_path: Path) -> None:
    kept = Conversations(tmp_path / "chats.sqlite")
    turn = kept.begin("", "one", Asked())
    pages = kept._db.execute("PRAGMA page_count").fetchone()[0]
    kept._db.execute(f"PRAGMA max_page_count={pages}")
    kept.save(replace(turn, text="x" * 100_000))
    assert kept.problem == "full" and len(kept.turns(turn.chat)[0].text) == 100_000
    kept.close()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "chats.sqlite").mkdir()
    kept = Conversations(tmp_path / "chats.sqlite")
    assert kept.problem == "unwritable" and kept.begin("", "one", Asked()).id > 0
    (tmp_path / "file").write_text("")
    assert Conversations(tmp_path / "file" / "chats.sqlite").problem == "unwritable"
    elsewhere = tmp_path / "link.sqlite"
    elsewhere.symlink_to(tmp_path / "target")
    assert Conversations(elsewhere).problem == "unwritable" and not (tmp_path / "target").exists()


def test_records_that_nobody_wrote_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    kept = Conversations(path)
    turn = full(kept.begin("", "one", ASKED))
    kept.save(turn)
    for record in (
        "",
        "[]",
        "{",
        '{"hits": [{"rank": 1}]}',
        '{"asked": 5, "timings": [], "notes": [{"x": 1}], "given": "y"}',
    ):
        kept._db.execute("UPDATE turns SET record = ?, state = 'odd'", (record,))
        (shown,) = kept.turns(turn.chat)
        assert shown.text == turn.text and shown.hits == () and shown.state == "cut"
    kept.close()


def test_many_threads_write_at_once(tmp_path: Path) -> None:
    kept = Conversations(tmp_path / "chats.sqlite")

    def write(name: str) -> None:
        chat = ""
        for n in range(20):
            turn = kept.begin(chat, f"{name} {n}", Asked())
            chat = turn.chat
            kept.save(replace(turn, state="done", text=name))

    threads = [threading.Thread(target=write, args=[f"thread {n}"]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.newest()) == 6 and kept.problem == ""
    assert all(len(kept.turns(chat.id)) == 20 for chat in kept.newest())
    kept.close()

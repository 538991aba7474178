"""`fathom data rewrites` makes examples of conversations, and a file of what it holds out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapt.instructions.example import read_examples
from eval.data.conversations import read_turns

Fathom = Callable[..., Any]


def test_examples_are_written_and_what_is_held_out(fathom: Fathom, tmp_path: Path) -> None:
    rows = []
    for number in range(10):
        town = f"Tidewell {number}"
        history = [{"role": "user", "text": f"Where is {town}?"}, {"role": "assistant", "text": "By the sea."}]
        rows.append({"id": f"c{number}_1", "question": f"Where is {town}?", "rewrite": f"Where is {town}?"})
        rewrite = f"Who founded {town}?"
        rows.append({"id": f"c{number}_2", "history": history, "question": "Who founded it?", "rewrite": rewrite})
    path, out, held = tmp_path / "turns.jsonl", tmp_path / "out.jsonl", tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("data", "rewrites", str(path), "--out", str(out))
    assert json.loads(fathom(*words, "--dry-run", "--json").stdout)["examples"] == 10 and not out.exists()
    told = json.loads(fathom(*words, "--hold-out", "0.2", "--held-out-to", str(held), "--json").stdout)
    assert told["examples"] == len(list(read_examples(out))) == 8 and len(read_turns(held)) == 4
    assert "--held-out-to needs --hold-out" in fathom(*words, "--replace", "--held-out-to", str(held), code=2).stderr
    again = fathom(*words, "--hold-out", "0.2", "--held-out-to", str(held), code=2)
    assert "is there already" in again.stderr
    path.write_text("{", encoding="utf-8")
    assert "line 1" in fathom(*words, "--replace", code=1).stderr

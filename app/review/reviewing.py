"""What the review page does: an event of a tab → new values for its fields. It knows nothing of layout.

The server keeps nothing about a tab: where it is and what it shows comes with every event and is not believed.
"""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import gradio as gr

from adapt.instructions.example import ExampleFault, Message
from adapt.instructions.reviews import OPEN, STATES, Overtaken, Reviews
from app.review.drawing import actions_html, bar_html, card_html, empty_html, notice_html
from app.review.words import Words, words_for
from retrieval.errors import FathomError

_LOG = logging.getLogger(__name__)
_DECISIONS = {"accept": "accepted", "reject": "rejected", "edit": "edited", "take-back": OPEN}
_NO_ORIGIN = "-"
FIELDS = ("bar", "notice", "card", "actions", "place", "raw")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tab is: the example, and what it goes through."""

    id: str = ""
    state: str = OPEN
    origin: str = ""
    score: str = ""
    below: str = ""

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Place":
        """From a tab's own words; what is missing or no text is left at its default."""
        given = {item.name: values[item.name] for item in fields(Place) if isinstance(values.get(item.name), str)}
        place = Place(**{name: value[:200] for name, value in given.items()})
        return place if place.state in ("", *STATES) else replace(place, state=OPEN)


class Reviewing:
    """The page's behaviour over one file. One instance serves all tabs; called from Gradio's threads."""

    def __init__(self, reviews: Reviews) -> None:
        self.reviews = reviews
        kinds = Counter(self._origin(name) for name in reviews.order)
        self._origins = dict(kinds.most_common())
        scores: set[str] = set()
        for example in reviews.examples.values():
            scores |= {name for name in example.checks if _score(example.checks, name) is not None}
        self._scores = sorted(scores)[:50]
        self._serial = itertools.count(1)

    # -- events ----------------------------------------------------------------------------------------------------

    def opened(self, request: gr.Request) -> Row:
        """A page was loaded; its address may say where."""
        words = words_for(request.headers.get("accept-language", ""))
        return self._safely(lambda: self._look(Place.of(dict(request.query_params)), words), words)

    def act(self, request: gr.Request, command: str) -> Row:
        """A key or a button; `command` is a JSON object with `do`, the place, and what belongs to it."""
        words = words_for(request.headers.get("accept-language", ""))
        return self._safely(lambda: self._act(_object(command), words), words)

    def _safely(self, work: Any, words: Words) -> Row:
        try:
            row: Row = work()
            return row
        except FathomError as error:  # what was typed stays on the page
            return self._only_notice(str(error))
        except Exception as error:
            _LOG.exception("an event of the review page failed")
            return self._only_notice(words.failed.format(kind=type(error).__name__))

    def _only_notice(self, sentence: str, place: str | None = None) -> Row:
        """Everything stays as it is, but for a sentence; the serial number tells the page that it was answered."""
        known = place if place is not None else json.dumps({"serial": next(self._serial), "kept": True})
        return (gr.skip(), notice_html(sentence), gr.skip(), gr.skip(), known, gr.skip())

    def _act(self, command: Mapping[str, Any], words: Words) -> Row:
        place = Place.of(command)
        do = command.get("do")
        if do in _DECISIONS:
            return self._decide(str(do), command, place, words)
        if do in ("next", "previous"):
            return self._step(place, 1 if do == "next" else -1, words)
        return self._look(place, words)

    def _decide(self, do: str, command: Mapping[str, Any], place: Place, words: Words) -> Row:
        seen = command.get("version")
        messages = self._edited(place.id, command.get("messages")) if do == "edit" else None
        decision = _DECISIONS[do]
        if do == "edit" and place.id in self.reviews.examples and messages == self.reviews.examples[place.id].messages:
            decision, messages = "accepted", None  # saved as it was in the file
        note = command.get("note")
        try:
            self.reviews.decide(
                place.id,
                decision,
                seen=seen if isinstance(seen, int) and not isinstance(seen, bool) else -1,
                messages=messages,
                note=note if isinstance(note, str) and do != "take-back" else "",
            )
        except Overtaken:
            said = words.overtaken.format(state=words.states[self.reviews.state(place.id)])
            if do == "edit":  # what was written stays, and may be saved once more
                return self._only_notice(said, self._place_json(place, stays=True))
            return self._view(place, words, said)
        return self._view(place, words) if do == "take-back" else self._step(place, 1, words)

    def _edited(self, name: str, given: Any) -> tuple[Message, ...]:
        """The messages of an edit: the same roles, each content as it was (None) or new. Raises ExampleFault."""
        if name not in self.reviews.examples:
            raise ExampleFault("form", "there is no such example")
        now = self.reviews.messages(name)
        if not isinstance(given, list) or len(given) != len(now):
            raise ExampleFault("form", "an edit must have every message of the example")
        return tuple(
            message if content is None else Message(message.role, content)
            for message, content in zip(now, given, strict=True)
        )

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _look(self, place: Place, words: Words) -> Row:
        """The example of a place if it is of the chosen kind, else the first that is."""
        self.reviews.refresh()
        found = self._matching(place)
        if place.id not in found:
            # An address that names an example shows it, whatever was decided about it meanwhile.
            named = place.id in self.reviews.examples and place.state == OPEN and not place.origin and not place.score
            if named:
                return self._view(replace(place, state=""), words)
            place = replace(place, id=found[0] if found else "")
        return self._view(place, words)

    def _step(self, place: Place, step: int, words: Words) -> Row:
        """The next or previous example of the chosen kind; after the last comes the first, and that is said."""
        self.reviews.refresh()
        found = self._matching(place)
        if not found:
            return self._view(replace(place, id=""), words)
        order = self._order(place)
        ranks = {name: rank for rank, name in enumerate(order)}
        here = ranks.get(place.id, -1 if step > 0 else len(order))
        beyond = [name for name in found if (ranks[name] > here if step > 0 else ranks[name] < here)]
        target = (beyond[0] if step > 0 else beyond[-1]) if beyond else (found[0] if step > 0 else found[-1])
        said = "" if beyond else words.again if step > 0 else words.back
        return self._view(replace(place, id=target), words, said)

    def _view(self, place: Place, words: Words, said: str = "") -> Row:
        reviews = self.reviews
        counts = reviews.counts()
        chosen = {name: value for name, value in asdict(place).items() if name != "id"}
        bar = bar_html(reviews.path.name, counts, self._origins, self._scores, chosen, words)
        if place.id not in reviews.examples:
            command = f"fathom data reviewed {reviews.path} --out FILE.jsonl"
            card = empty_html(not counts[OPEN] and place.state == OPEN, command, words)
            return (bar, notice_html(said), card, "", self._place_json(place), "")
        example, state = reviews.examples[place.id], reviews.state(place.id)
        found = self._matching(place)
        at = found.index(place.id) + 1 if place.id in found else 0
        messages = reviews.messages(place.id)
        decided = reviews.decided(place.id)
        when = decided.at if decided is not None else example.review.at if example.review and state != OPEN else ""
        card = card_html(example, messages, state, when, (at, len(found)), words)
        actions = actions_html(reviews.note(place.id), state, words)
        raw = json.dumps([message.content for message in messages])
        return (bar, notice_html(said), card, actions, self._place_json(place), raw)

    def _place_json(self, place: Place, *, stays: bool = False) -> str:
        """For the page's script; with `stays` it leaves the fields of an edit open."""
        version = self.reviews.version(place.id) if place.id else 0
        return json.dumps({**asdict(place), "version": version, "serial": next(self._serial), "stays": stays})

    def _matching(self, place: Place) -> list[str]:
        """Ids of the examples of the chosen kind, in the chosen order."""
        reviews = self.reviews
        below = _number(place.below) if place.score else None
        return [
            name
            for name in self._order(place)
            if (not place.state or reviews.state(name) == place.state)
            and (not place.origin or self._origin(name) == place.origin)
            and (below is None or (_score(reviews.examples[name].checks, place.score) or 0.0) < below)
        ]

    def _order(self, place: Place) -> Sequence[str]:
        """All ids: as in the file, or by a score, the lowest first; those without it are left out then."""
        if not place.score:
            return self.reviews.order
        scored = [(_score(self.reviews.examples[name].checks, place.score), name) for name in self.reviews.order]
        return [
            name for value, name in sorted((pair for pair in scored if pair[0] is not None), key=lambda p: p[0] or 0)
        ]

    def _origin(self, name: str) -> str:
        origin = self.reviews.examples[name].origin
        return origin.kind if origin is not None else _NO_ORIGIN


def _score(checks: Mapping[str, Any], name: str) -> float | None:
    value = checks.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if value == value else None


def _object(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

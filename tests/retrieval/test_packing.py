"""Hits → what the model is shown."""

from hypothesis import given
from hypothesis import strategies as st

from retrieval.packing import INSIDE, MOST_JOINED, pack
from retrieval.passages import Document, Hit, Passage, Scores, Source
from retrieval.prompts import answer_messages, ends_first, passage_block

TEXT = "".join(f"Sentence number {n:02d} says something of its own. " for n in range(40))


def hit(
    rank: int, start: int, end: int, *, document: int = 1, headings: tuple[str, ...] = (), dense: float = 0.5
) -> Hit:
    text = Document(f"{document}.txt", TEXT).text[start:end]
    passage = Passage(100 * document + rank, document, rank, start, end, None, headings, text, len(text) // 4)
    source = Source(document, f"{document}.txt", "", "txt", "", {})
    return Hit(rank, 1.0 / rank, passage, source, Scores(dense=dense))


def stored(document_id: int) -> Document:
    return Document(f"{document_id}.txt", TEXT)


def spans(hits: tuple[Hit, ...]) -> list[tuple[int, int, int]]:
    return [(h.passage.document_id, h.passage.start, h.passage.end) for h in hits]


def test_neighbours_become_one_at_the_place_of_the_better_one() -> None:
    found = [hit(1, 96, 192, dense=0.7), hit(2, 0, 90, document=2), hit(3, 190, 288, dense=0.9)]
    packed = pack(found, stored)
    assert spans(packed.hits) == [(1, 96, 288), (2, 0, 90)]
    first = packed.hits[0]
    assert first.passage.text == TEXT[96:288] and first.passage.id == found[0].passage.id
    assert first.scores.dense == 0.9 and first.score == found[0].score
    assert [h.rank for h in packed.hits] == [1, 2] and packed.given == 2


def test_another_section_another_document_and_a_changed_text_stay_apart() -> None:
    apart = [hit(1, 0, 48, headings=("One",)), hit(2, 48, 96, headings=("Two",)), hit(3, 96, 144, document=2)]
    assert len(pack(apart, stored).hits) == 3
    touching = [hit(1, 0, 48), hit(2, 48, 96)]
    assert len(pack(touching, stored).hits) == 1
    assert len(pack(touching, lambda _: None).hits) == 2
    assert len(pack(touching, lambda _: Document("1.txt", "x" + TEXT)).hits) == 2


def test_copies_and_passages_inside_better_ones_are_left_out() -> None:
    found = [hit(1, 0, 96), hit(2, 20, 90), hit(3, 0, 96, document=2), hit(4, 300, 300)]
    assert spans(pack(found, stored).hits) == [(1, 0, 96)]


def test_no_passage_is_cut_and_what_has_no_room_stays_unshown() -> None:
    found = [hit(1, 0, 96), hit(2, 400, 900, document=2), hit(3, 200, 250, document=3)]
    room = len(passage_block(1, found[0])) + len(passage_block(2, found[2]))
    packed = pack(found, stored, room=room)
    assert [h.passage.document_id for h in packed.shown] == [1, 3]
    assert [h.passage.document_id for h in packed.hits] == [1, 3, 2]
    assert [h.rank for h in packed.hits] == [1, 2, 3]
    assert pack(found, stored, room=1).given == 1


def test_a_small_window_gets_the_best_part_instead_of_the_joined_whole() -> None:
    found = [hit(1, 96, 192), hit(2, 192, 288)]
    packed = pack(found, stored, room=len(passage_block(1, found[0])))
    assert spans(packed.shown) == [(1, 96, 192)]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1000), st.integers(1, 200)), max_size=12), st.integers(1, 4000)
)
def test_whatever_was_found_is_whole_exact_and_said_once(found: list[tuple[int, int, int]], room: int) -> None:
    hits = [hit(n, at, at + size, document=doc) for n, (doc, at, size) in enumerate(found, 1)]
    packed = pack(hits, stored, room=room)
    for one in packed.hits:
        assert one.passage.text == TEXT[one.passage.start : one.passage.end]
        assert one.passage.end - one.passage.start <= MOST_JOINED * 205
    assert [h.rank for h in packed.hits] == list(range(1, len(packed.hits) + 1))
    # every passage that has text is in the result, whole or for the most part
    for one in hits:
        length = one.passage.end - one.passage.start
        assert (
            not one.passage.text.strip()
            or any(
                min(one.passage.end, other.passage.end) - max(one.passage.start, other.passage.start)
                > INSIDE * length - 1
                for other in packed.hits
                if other.passage.document_id == one.passage.document_id or other.passage.text == one.passage.text
            )
            or any(" ".join(one.passage.text.split()) == " ".join(o.passage.text.split()) for o in hits if o is not one)
        )


def test_the_best_passages_stand_at_the_ends_with_the_numbers_of_their_ranks() -> None:
    assert [ends_first(n) for n in range(6)] == [[], [1], [1, 2], [1, 3, 2], [1, 3, 4, 2], [1, 3, 5, 4, 2]]
    shown = answer_messages("Which?", [hit(n, 48 * n, 48 * n + 48, document=n) for n in range(1, 6)])[-1].text
    places = [shown.index(f'<passage number="{n}"') for n in (1, 3, 5, 4, 2)]
    assert places == sorted(places)
    assert f'<passage number="4" title="4.txt">\n{TEXT[192:240].strip()}\n</passage 4>' in shown

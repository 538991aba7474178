"""TREC's files as they come: classic topics, XML topics, judgements, documents; and runs that others can read."""

import time

import ir_measures
import pytest

from eval.data.datasets import load_dataset
from eval.data.trec import holds_documents, qrels_lines, read_documents, read_qrels, read_topics, run_lines
from eval.figures.metrics import MEASURES, per_query
from retrieval.errors import ReadingError, UsageError

CLASSIC = """<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in
international criminal activity.

<narr> Narrative:
A relevant document must name the organization.

</top>

<top>
<num> Number: 302 </num>
<title> Topic: Polio &amp; Post-Polio </title>
<desc> Is it <b>under</b> control? </desc>
</top>
"""
DOCUMENTS = """<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE> The <b>moon</b> and tides </HEADLINE>
<DATE>1992</DATE>
<TEXT>
<P>Tides follow the moon &amp; the sun.</P>
<P>Spring tides are high.</P>
</TEXT>
</DOC>
<doc><docno>FT-2</docno><text>a < b, and bread needs flour</text></doc>
"""


@pytest.fixture
def write(tmp_path):
    def made(text, name="file.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return made


def test_classic_topics_with_and_without_closing_tags(write):
    path = write(CLASSIC)
    assert [(topic.id, topic.text) for topic in read_topics(path)] == [
        ("301", "International Organized Crime"),
        ("302", "Polio & Post-Polio"),
    ]
    assert read_topics(path)[1].line == CLASSIC[: CLASSIC.rindex("<top>")].count("\n") + 1
    both = read_topics(path, ("title", "desc"))
    assert both[0].text.endswith("Crime Identify organizations that participate in international criminal activity.")
    assert both[1].text == "Polio & Post-Polio Is it under control?"


def test_xml_topics(write):
    path = write(
        "<topics><topic number='7'><query>covid origin</query><question>whence</question></topic>"
        '<topic number="8"><title>二氧化碳</title></topic></topics>'
    )
    assert [(topic.id, topic.text) for topic in read_topics(path)] == [("7", "covid origin"), ("8", "二氧化碳")]
    assert read_topics(path, ("desc", "title"))[0].text == "whence covid origin"


def test_tabbed_topics(write):
    topics = read_topics(write("id\tquery\n1\thow do tides work\n2\t潮汐 为什么\n"))
    assert [(topic.id, topic.text, topic.line) for topic in topics] == [
        ("1", "how do tides work", 2),
        ("2", "潮汐 为什么", 3),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\tone\nno tab here\n", "line 2 is not 'id<TAB>query'"),
        ("1\tone\n1\ttwo\n", "line 2: the query id '1' stands in line 1"),
        ("\n<top>\n<title> x\n</top>", "line 2: a topic without <num>"),
        ("<top>\n<num> 3\n<desc> x\n</top>", "topic 3 has no title; it has desc"),
        ("\n", "no topic"),
    ],
)
def test_broken_topics_are_named_with_their_line(write, text, words):
    with pytest.raises(ReadingError, match=words):
        read_topics(write(text))


def test_a_field_that_topics_do_not_have(write):
    with pytest.raises(UsageError, match="title, desc, narr; summary"):
        read_topics(write(CLASSIC), ("summary",))


def test_judgements_of_both_kinds(write):
    found = read_qrels(write("query-id\tcorpus-id\tscore\nq 1\tmy file.txt\t2\n"))
    assert [(one.query, one.document, one.grade, one.line) for one in found] == [("q 1", "my file.txt", 2, 2)]
    found = read_qrels(write("301 0 FT-1 1\n301 Q0 FT-2 -2\n301 0 FT-1 1\n"))
    assert [(one.document, one.grade) for one in found] == [("FT-1", 1), ("FT-2", -2)]


def test_documents_between_tags(write):
    path = write(DOCUMENTS)
    assert holds_documents(path) and not holds_documents(write(CLASSIC, "topics"))
    assert list(read_documents(path)) == [
        ("FT-1", "The moon and tides", "1992\n\nTides follow the moon & the sun.\n\nSpring tides are high.", 1),
        ("FT-2", "", "a < b, and bread needs flour", 10),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<DOC><TEXT>x</TEXT></DOC>", "line 1: a <DOC> without <DOCNO>"),
        ("<DOC><DOCNO>1</DOCNO>\n<DOC>", "line 2: <DOC> inside another"),
        ("<DOC><DOCNO>1</DOCNO>", "no </DOC>"),
    ],
)
def test_broken_documents_are_named(write, text, words):
    with pytest.raises(ReadingError, match=words):
        list(read_documents(write(text)))


@pytest.mark.parametrize(
    "hostile",
    ["<DOC><DOCNO>x</DOCNO>" + "<TI>" * 200_000 + "</DOC>", "<DOC>" + "<DOCNO" * 200_000 + "</DOC>"],
)
def test_hostile_markup_costs_no_square_of_its_length(write, hostile):
    path = write(hostile)
    started = time.process_time()
    try:
        list(read_documents(path))
    except ReadingError:
        pass
    assert time.process_time() - started < 20  # the square would take hours


@pytest.mark.parametrize("place", ["documents", "apart"])
def test_a_trec_collection_is_a_dataset(write, tmp_path, place):
    write(DOCUMENTS, f"set/{'documents/' if place == 'documents' else ''}ft.sgml")
    where = "set" if place == "documents" else "judged"
    topics = write(CLASSIC, f"{where}/topics.301-302.txt")
    qrels = write("301 0 FT-1 1\n301 0 FT-2 0\n302 0 FT-2 1\n", f"{where}/qrels.txt")
    given = {} if place == "documents" else {"topics": topics, "qrels": qrels}
    dataset = load_dataset(tmp_path / "set", **given)
    assert (dataset.form, [document.id for document in dataset.documents]) == ("trec", ["FT-1", "FT-2"])
    assert dataset.queries["302"] == "Polio & Post-Polio"
    assert dataset.qrels["301"] == {"FT-1": 1, "FT-2": 0}
    assert load_dataset(tmp_path / "set", fields=("desc",), **given).queries["302"] == "Is it under control?"
    with pytest.raises(UsageError, match="no split"):
        load_dataset(tmp_path / "set", split="test", topics=topics, qrels=qrels)


def test_ordinary_documents_are_read_as_a_users_are(write, tmp_path):
    write("# Tides\n\nThe moon causes tides.\n", "set/documents/sea/tides.md")
    write("plain words", "set/documents/plain.txt")
    write("\x00\x01binary", "set/documents/broken.txt")
    write("1\twhat causes tides\n", "set/topics.tsv")
    write("1 0 sea/tides.md 1\n", "set/qrels.txt")
    dataset = load_dataset(tmp_path / "set")
    assert [document.id for document in dataset.documents] == ["plain.txt", "sea/tides.md"]
    assert dataset.documents[1].read.headings[0].title == "Tides"
    assert list(dataset.unread) == ["broken.txt"]
    write("1 0 broken.txt 1\n", "set/qrels.txt")
    with pytest.raises(ReadingError, match=r"line 1: the judged document 'broken.txt' .*could not be read"):
        load_dataset(tmp_path / "set")


def test_runs_give_other_tools_the_same_figures(tmp_path):
    rankings = {"q 1": ["z%", "a b", "c"], "q2": ["c", "a b"], "q3": []}
    qrels = {"q 1": {"a b": 2, "z%": 0}, "q2": {"a b": 1}, "q3": {"c": 1}}
    run, judged = tmp_path / "run.trec", tmp_path / "qrels.trec"
    run.write_text("".join(run_lines(rankings, "fathom hybrid")))
    judged.write_text("".join(qrels_lines(qrels)))
    rows = [line.split() for line in run.read_text().splitlines()]
    assert all(len(row) == 6 for row in rows)
    scores = [float(row[4]) for row in rows if row[0] == "q%201"]
    assert scores == sorted(set(scores), reverse=True)
    theirs = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in MEASURES],
        ir_measures.read_trec_qrels(str(judged)),
        ir_measures.read_trec_run(str(run)),
    )
    ours = per_query(rankings, qrels)
    for measure, value in theirs.items():
        assert sum(ours[str(measure)].values()) / 3 == pytest.approx(value, abs=1e-9)

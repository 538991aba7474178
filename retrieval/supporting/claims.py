"""A sentence of an answer and the question it answers → the claim that is checked. It knows no checker."""

from retrieval.support import MARKER, content_tokens

FEWEST_WORDS = 5
"""Content words from which a sentence is understood without its question."""


def in_question(question: str, sentence: str) -> str:
    """Question and answer as one claim: "308" says nothing, "How many points did they allow? 308" does."""
    asked = " ".join(question.split()).rstrip("?？ ")
    mark = "？" if asked and ord(asked[-1]) > 0x2E80 else "? "
    return f"{asked}{mark}{sentence}" if asked else sentence


def claim_of(sentence: str, question: str = "") -> str:
    """What a checker reads of a sentence: without citation marks, and with its question where it is too short to be
    understood alone."""
    plain = " ".join(MARKER.sub("", sentence).split())
    return plain if len(content_tokens(plain)) >= FEWEST_WORDS else in_question(question, plain)

"""A step of a search → a sentence for people, in the language of the words. It knows no HTML and no terminal."""

from app.chat.words import Words, duration
from retrieval.steps import Step


def step_text(step: Step, words: Words) -> str:
    """What a step did, why it did less than it was set to, and how long it took where that is worth saying. A step that
    has no words (of a newer Fathom) is said by its names."""
    name = f"{step.name}.{step.did}"
    text = _filled(words.step_did.get(name, name), step)
    if step.skipped:
        why = _filled(words.step_why.get(step.skipped, step.skipped), step)
        text = words.step_skipped.format(did=text, why=why)
    return f"{text} · {duration(step.milliseconds / 1000, words)}" if step.milliseconds >= 1 else text


def _filled(sentence: str, step: Step) -> str:
    try:
        return sentence.format(**step.values)
    except (KeyError, IndexError, ValueError):
        return sentence

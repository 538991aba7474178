"""What every metric is called, means, and looks like: a table of data that reports, comparisons and commands share.

It computes nothing. Names are those of the papers: `nDCG@10` as in ir_measures, `EM` and `F1` as in SQuAD.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the vocabulary. `form` is a format of str.format for one number; `@k` in a name is any number."""

    name: str
    meaning: str
    better: Direction = "higher"
    form: str = "{:.3f}"


SHARE = "{:.3f}"
TIME = "{:,.0f} ms"
MEASURES = {
    measure.name: measure
    for measure in (
        # Retrieval, over the judged queries (ir_measures' notation).
        Measure(
            "nDCG@k", "gain of the first k, discounted by rank, over the best possible (Järvelin & Kekäläinen 2002)"
        ),
        Measure("R@k", "share of the relevant documents among the first k"),
        Measure("RR@k", "one over the rank of the first relevant document, 0 beyond k (Voorhees 1999)"),
        Measure("AP@k", "precision averaged over the ranks of the relevant documents among the first k"),
        Measure("P@k", "share of relevant documents among the first k"),
        Measure("Success@k", "share of queries with a relevant document among the first k"),
        Measure("Judged@k", "share of the first k that anyone judged; low means that other figures guess"),
        Measure("found@k", "share of questions with a gold passage among the first k passages"),
        # Answers.
        Measure("EM", "share of answers equal to a reference after SQuAD's normalisation (Rajpurkar et al. 2016)"),
        Measure("F1", "overlap of answer and reference in words, in Chinese characters (SQuAD; CMRC 2018)"),
        Measure("ROUGE-L", "longest common subsequence of answer and reference, as F (Lin 2004)"),
        Measure("accuracy", "share of right choices (yes/no, options) or of answers that hold a reference"),
        Measure("gold_shown", "share of questions with a gold answer in what the model was shown"),
        Measure("passages_shown", "passages the model was shown", "lower", "{:.1f}"),
        Measure("numeric_match", "share of answers whose number equals the reference's, scale and rounding aside"),
        Measure("citation_precision", "share of citations that overlap the gold span (after ALCE, Gao et al. 2023)"),
        Measure("citation_recall", "share of the gold spans that a citation overlaps (after ALCE)"),
        Measure("citation_F1", "harmonic mean of an answer's citation precision and recall (as QASPER's evidence F1)"),
        Measure("citation_support", "share of cited sentences whose cited text supports them"),
        Measure("cited_document", "share of citations that name a document the answer is in"),
        Measure("link_rate", "share of citations whose quotation stands in the source at the place they name"),
        Measure("citations", "citations an answer has", form="{:.2f}"),
        Measure("uncited", "share of sentences that claim something and cite nothing", "lower"),
        Measure("replaced", "share of drafts that nothing shown supports, replaced by quotations", "lower"),
        Measure("prompt_tokens", "tokens the model read for an answer", "lower", "{:,.0f}"),
        Measure("completion_tokens", "tokens the model wrote for an answer", "lower", "{:,.0f}"),
        Measure("unclear", "share of answers that choose none of the options, or several", "lower"),
        Measure("gold_retrieved", "share of questions with a passage of the gold document among those found"),
        Measure("quote_rate", "share of sentences that stand in a cited source word for word"),
        Measure("refusal_precision", "share of refusals that were right: the question had no answer"),
        Measure("refusal_recall", "share of unanswerable questions that were refused"),
        Measure("refusal_F1", "harmonic mean of refusal precision and recall"),
        Measure("over_refusal", "share of answerable questions that were refused", "lower"),
        Measure("coverage", "share of questions that were answered at all"),
        Measure("risk", "share of wrong answers among those given (El-Yaniv & Wiener 2010)", "lower"),
        Measure("AURC", "area under the risk-coverage curve (Geifman et al. 2019)", "lower"),
        # Judge (ragas' names, Es et al. 2024).
        Measure("faithfulness", "share of the answer's claims that the shown passages support"),
        Measure("answer_relevance", "how far the answer is about the question, by the judge"),
        Measure("context_precision", "relevant passages ahead of others: mean precision at the ranks of useful ones"),
        Measure("context_recall", "share of the reference's claims that the passages support"),
        Measure("parsed", "share of the judge's replies that had the form asked for"),
        Measure("kappa", "agreement of judge and people beyond chance (Cohen 1960)"),
        # Rewrites.
        Measure("rouge1_recall", "share of the human rewrite's words in the rewrite (CANARD, Elgohary et al. 2019)"),
        Measure("rouge1_F1", "overlap of rewrite and human rewrite in words (Lin 2004)"),
        Measure("rewrite_EM", "share of rewrites equal to the human one"),
        Measure("rewrite_F1", "overlap of rewrite and human rewrite in words, as F"),
        Measure("unchanged", "share of questions that were left as they were"),
        Measure("asked_model", "share of questions for which a model was asked"),
        Measure("left_alone", "share of questions needing no rewrite that were left as they were"),
        # Language models.
        Measure(
            "bits_per_byte", "cost of the text in bits per UTF-8 byte: comparable across tokenizers", "lower", "{:.4f}"
        ),
        Measure("tokens_per_byte", "length of the text in tokens per UTF-8 byte", "lower", "{:.4f}"),
        Measure(
            "perplexity", "exp of the mean cost of a token: compares models of one tokenizer only", "lower", "{:.2f}"
        ),
        Measure(
            "chat_loss",
            "cost of held-out answers in nats per token of the base, after the conversation before them",
            "lower",
            "{:.4f}",
        ),
        Measure("choice_accuracy", "share of questions whose likeliest option is the right one"),
        # Any kind.
        Measure("errors", "share of items without a result", "lower"),
        # Speed.
        Measure("tokens_per_second", "tokens a second", form="{:,.1f}"),
        Measure("requests_per_second", "finished requests a second", form="{:,.2f}"),
        Measure("passages_per_second", "passages indexed a second", form="{:,.1f}"),
        Measure("cpu_ratio", "the peer's CPU time over ours: above 1 we are cheaper", form="{:.2f} ×"),
        Measure("wall_ratio", "the peer's wall time over ours: above 1 we are faster", form="{:.2f} ×"),
    )
}

HEADLINE: dict[str, tuple[str, ...]] = {
    "retrieval": ("nDCG@10", "R@100", "RR@10", "AP@100", "R@10", "Success@1", "Success@5", "Success@10", "Judged@10"),
    "answers": (
        *("F1", "EM", "accuracy", "ROUGE-L", "numeric_match"),
        *("citation_precision", "citation_recall", "citation_support", "refusal_F1", "over_refusal"),
    ),
    "judge": ("faithfulness", "answer_relevance", "context_precision", "context_recall", "accuracy", "parsed"),
    "rewrites": ("rouge1_recall", "rouge1_F1", "rewrite_F1", "rewrite_EM", "nDCG@10_rewritten"),
    "language": ("bits_per_byte", "tokens_per_byte", "perplexity"),
    "choices": ("choice_accuracy",),
    "tune": ("nDCG@10",),
    "speed": ("cpu_ratio", "wall_ratio", "tokens_per_second", "requests_per_second", "first_token_ms", "total_ms"),
}
"""Kind of part → metrics in the order they are shown. The first that a part has is its main one."""

_LOWER = re.compile(r"(_ms|_s|_seconds|latency|error|errors)$")


def find(metric: str) -> Measure | None:
    """The line of the vocabulary for `metric`; a stage (`lexical:R@5`) and words around (`R@5_raw`) change nothing."""
    words = re.sub(r"@\d+", "@k", metric.rpartition(":")[2]).split("_")
    if (whole := "_".join(words)) in MEASURES:
        return MEASURES[whole]
    if _LOWER.search(whole):
        return None
    for length in range(len(words) - 1, 0, -1):
        for start in range(len(words) - length + 1):
            if (part := "_".join(words[start : start + length])) in MEASURES:
                return MEASURES[part]
    return None


def better(metric: str) -> Direction:
    """Which way is up. What is not in the vocabulary is better when higher, but for times and errors."""
    known = find(metric)
    if known is not None:
        return known.better
    return "lower" if _LOWER.search(metric) else "higher"


def describe(metric: str) -> str:
    """One line for people: the meaning and where it comes from; "" for a name the vocabulary does not hold."""
    known = find(metric)
    if known is not None:
        return re.sub(r"\bk\b", _depth(metric), known.meaning)
    return "time in milliseconds" if metric.endswith("_ms") else ""


def _depth(metric: str) -> str:
    depth = re.search(r"@(\d+)", metric)
    return depth.group(1) if depth else "k"


def format_value(metric: str, value: float | None) -> str:
    """`value` as people read it; "–" for None."""
    if value is None:
        return "–"
    known = find(metric)
    if known is not None:
        return known.form.format(value)
    if metric.endswith("_ms"):
        return TIME.format(value) if abs(value) >= 100 else f"{value:.3g} ms"
    if metric.endswith(("_s", "_seconds")):
        return f"{value:.3g} s"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def format_difference(metric: str, value: float | None) -> str:
    """As `format_value`, with its sign; what rounds to nothing has none."""
    if value is None:
        return "–"
    size = format_value(metric, abs(value))
    return size if not re.search("[1-9]", size) else f"{'+' if value > 0 else '-'}{size}"


def main_metric(kind: str, metrics: Sequence[str]) -> str | None:
    """The first of the kind's headline that is there, else the first of `metrics`."""
    ordered = in_order(kind, metrics)
    return ordered[0] if ordered else None


def in_order(kind: str, metrics: Sequence[str]) -> list[str]:
    """`metrics` with the kind's headline first, in its order; the rest as they came."""
    headline = [metric for metric in HEADLINE.get(kind, ()) if metric in metrics]
    return headline + [metric for metric in metrics if metric not in headline]

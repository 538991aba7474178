"""`python -m adapt.experiments forgetting|methods|four-bits|export|gpu …`: the measurements of the adaptation, each
written where `--out` says. On the way it says what it does, through the log.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from adapt.experiments.export_table import TABLE_MARKDOWN as EXPORT_TABLE
from adapt.experiments.export_table import fill_export
from adapt.experiments.forgetting_rows import Weights, rows_of
from adapt.experiments.forgetting_table import TABLE_MARKDOWN, Stages, fill_table
from adapt.experiments.four_bits_table import TABLE_MARKDOWN as FOUR_BITS_TABLE
from adapt.experiments.four_bits_table import fill_four_bits
from adapt.experiments.gpu_rows import ATTENTION, MODELS, Work, measure_rows
from adapt.experiments.methods_rows import method_rows
from adapt.experiments.methods_table import TABLE_MARKDOWN as METHODS_TABLE
from adapt.experiments.methods_table import fill_methods
from adapt.experiments.recipe_stages import RecipeStages
from adapt.export.gguf_file import KINDS
from adapt.recipe import Dapt, Recipe
from adapt.recipe_file import load_recipe
from eval.runs.run_folder import write_json
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import FathomError, UsageError

HANDBOOK_QUESTIONS = Path("data/handbook/questions.jsonl")
_LOG = logging.getLogger(__name__)


def forgetting(options: argparse.Namespace) -> Path:
    """Remedies against forgetting side by side. Returns the table's file."""
    settings = dict(_pair(word) for word in options.set)
    recipe = load_recipe(options.recipe, root=options.root, settings=settings)
    cache = options.cache or EmbeddingSettings().cache_folder()
    stages = RecipeStages(recipe, cache=cache, progress=_log_progress)
    return forgetting_of(recipe, stages, options, cache)


def forgetting_of(recipe: Recipe, stages: Stages, options: argparse.Namespace, cache: Path) -> Path:
    """The rows of the recipe's first `dapt` stage. Raises UsageError where there is none, and as `fill_table`."""
    found = [stage.settings for stage in recipe.stages if isinstance(stage.settings, Dapt)]
    if not found:
        raise UsageError(f"the recipe '{recipe.name}' has no dapt stage to compare remedies on")
    rows = rows_of(
        found[0],
        tokens=options.tokens,
        layers=stages.layers,
        weights=Weights(options.kl, options.l2sp, options.ewc),
        only=tuple(options.rows),
    )
    seeds = [recipe.seed + number for number in range(options.seeds)]
    out: Path = options.out
    fill_table(rows, seeds, stages, out=out, cache=cache, limit_bytes=options.limit_bytes, progress=_log_progress)
    return out / TABLE_MARKDOWN


def gpu(options: argparse.Namespace) -> Path:
    """Speed, memory and utilisation of the methods on this machine's GPU. Returns the JSON file."""
    work = Work(
        options.block, options.micro_tokens, options.steps, options.warm_up, options.rank, options.checkpointing
    )
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    found = measure_rows(options.models, options.methods, work, peak=options.peak, progress=_log_progress)
    write_json(out, found)
    return out


def methods(options: argparse.Namespace) -> Path:
    """Every method of tuning on one small task. Returns the table's file."""
    from adapt.training.bases import base_folder
    from eval.runs.run_folder import read_json

    recipe = load_recipe(options.recipe, root=options.root, settings=dict(_pair(word) for word in options.set))
    found = [stage.settings for stage in recipe.stages if isinstance(stage.settings, Dapt)]
    if not found:
        raise UsageError(f"the recipe '{recipe.name}' has no dapt stage to change the method of")
    cache = options.cache or EmbeddingSettings().cache_folder()
    layers = int(read_json(base_folder(recipe.base, cache=cache) / "config.json")["num_hidden_layers"])
    questions = options.questions or recipe.root / "handbook" / "questions.jsonl"
    fill_methods(
        recipe,
        method_rows(found[0], layers=layers, only=options.rows, wide=options.wide),
        questions=questions if questions.is_file() else None,
        out=options.out,
        cache=cache,
        progress=_log_progress,
    )
    out: Path = options.out
    return out / METHODS_TABLE


def four_bits(options: argparse.Namespace) -> Path:
    """Which layers NF4 hurts. Returns the table's file."""
    from adapt.training.bases import base_folder

    cache = options.cache or EmbeddingSettings().cache_folder()
    out: Path = options.out
    fill_four_bits(
        base_folder(options.model, cache=cache),
        texts=options.texts,
        tokens=options.tokens,
        share=options.share,
        out=out,
        progress=_log_progress,
    )
    return out / FOUR_BITS_TABLE


def export(options: argparse.Namespace) -> Path:
    """GGUF files of every kind in every program that reads them. Returns the table's file."""
    from adapt.training.bases import base_folder

    cache = options.cache or EmbeddingSettings().cache_folder()
    out: Path = options.out
    fill_export(
        base_folder(options.model, cache=cache),
        questions=options.questions,
        prompts=options.prompts,
        count=options.count,
        kinds=options.kinds,
        out=out,
        progress=_log_progress,
        keep=options.keep,
    )
    return out / EXPORT_TABLE


def options_of(words: Sequence[str]) -> argparse.Namespace:
    """The words of the command line. Raises SystemExit for words that it does not know."""
    parser = argparse.ArgumentParser(prog="python -m adapt.experiments", description="Measurements of the adaptation.")
    commands = parser.add_subparsers(dest="command", required=True)
    strengths, work = Weights(), Work()
    table = commands.add_parser("forgetting", help="remedies against forgetting, side by side")
    table.add_argument("--recipe", type=Path, required=True)
    table.add_argument("--out", type=Path, required=True, help="folder of the table; finished cells there are kept")
    table.add_argument("--root", type=Path, help="where paths of the recipe begin")
    table.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe")
    table.add_argument("--cache", type=Path, help="folder of prepared texts and models")
    table.add_argument("--tokens", type=_count, default=30_000, help="of every training")
    table.add_argument("--seeds", type=_count, default=3, help="how many, from the recipe's on")
    table.add_argument("--rows", nargs="*", default=[], help="names of rows; all by default")
    table.add_argument("--limit-bytes", type=_count, default=100_000, help="of each held-out text, about")
    for name in ("kl", "l2sp", "ewc"):
        table.add_argument(f"--{name}", type=_positive, default=getattr(strengths, name), help="if the recipe has none")
    tuning = commands.add_parser("methods", help="every method of tuning on one small task, side by side")
    tuning.add_argument("--recipe", type=Path, required=True)
    tuning.add_argument("--out", type=Path, required=True, help="folder of the table; finished rows there are kept")
    tuning.add_argument("--root", type=Path, help="where paths of the recipe begin")
    tuning.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    tuning.add_argument("--cache", type=Path, help="folder of prepared texts and models")
    tuning.add_argument("--rows", nargs="*", default=[], help="names of rows; all by default")
    tuning.add_argument("--wide", nargs="*", default=[], help="layers that 'qlora, partly' does not hold in 4 bits")
    tuning.add_argument(
        "--questions", type=Path, help="JSON lines of questions with answers; the handbook's by default"
    )
    bits = commands.add_parser("four-bits", help="which layers NF4 hurts, and which to hold in 16 bits")
    bits.add_argument("--model", default="packaged", help="a folder, or the packaged model")
    bits.add_argument("--texts", type=Path, required=True, help="a file, a folder, or rows.jsonl.gz#field")
    bits.add_argument("--out", type=Path, required=True, help="folder of the table")
    bits.add_argument("--tokens", type=_count, default=896, help="to choose on, and as many to judge on")
    bits.add_argument("--share", type=_positive, default=0.55, help="of the memory of all weights in 16 bits, at most")
    bits.add_argument("--cache", type=Path, help="folder of unpacked models")
    files = commands.add_parser("export", help="GGUF files in transformers, OpenVINO and llama.cpp, side by side")
    files.add_argument("--model", default="packaged", help="a folder, or the packaged model")
    files.add_argument("--out", type=Path, required=True, help="folder of the table")
    files.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    files.add_argument("--questions", type=Path, default=HANDBOOK_QUESTIONS, help="JSON lines with prompts")
    files.add_argument("--prompts", type=_count, default=50, help="how many of them")
    files.add_argument("--count", type=_count, default=16, help="tokens written after each")
    files.add_argument("--cache", type=Path, help="folder of unpacked models")
    files.add_argument("--keep", action="store_true", help="leave the GGUF files beside the table")
    card = commands.add_parser("gpu", help="tokens a second, peak memory and MFU of full, LoRA and NF4")
    card.add_argument("--out", type=Path, required=True, help="JSON file")
    card.add_argument("--models", nargs="+", default=["qwen3-4b"], help=f"{', '.join(MODELS)}, or a config.json")
    card.add_argument("--methods", nargs="+", default=["full", "lora", "qlora"], choices=["full", "lora", "qlora"])
    card.add_argument("--block", type=_count, default=work.block, help="tokens of a row")
    card.add_argument("--micro-tokens", type=_count, default=work.micro_tokens, help="tokens of a step")
    card.add_argument("--steps", type=_count, default=work.steps, help="that are timed")
    card.add_argument("--warm-up", type=_count, default=work.warm_up, help="steps before")
    card.add_argument("--rank", type=_count, default=work.rank, help="of the adapters")
    card.add_argument("--checkpointing", action="store_true", help="compute activations again")
    card.add_argument("--attention", default=work.attention, choices=ATTENTION)
    card.add_argument("--peak", type=_positive, help="TFLOP/s of the card in bf16, where it is not known")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run a command; its exit status."""
    options = options_of(words)
    run = {"forgetting": forgetting, "gpu": gpu, "methods": methods, "four-bits": four_bits, "export": export}
    try:
        path = run[options.command](options)
    except FathomError as error:
        _LOG.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        _LOG.error("stopped; run again to go on")
        return 130
    _LOG.info("written: %s", path)
    return 0


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {word[:80]!r} is not of the form KEY=VALUE")
    return name.strip(), value.strip()


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no whole number from 1 on")
    return int(word)


def _positive(word: str) -> float:
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{word}' is no number above 0")
    return number


def _log_progress(stage: str, done: int, total: int) -> None:
    _LOG.info("%s %d/%d", stage, done, total)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1:]))

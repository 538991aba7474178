"""What contradicts itself in a recipe is refused with its reason, and nothing else is."""

from pathlib import Path

import pytest

from adapt.recipe_file import load_recipe
from retrieval.errors import UsageError

HEAD = "data:\n  domain: d\n  general: g\n  task: {path: t, held_out: 0}\n"


def load(tmp_path: Path, *stages: str, more: str = "", head: str = HEAD) -> str:
    """The problems of a recipe with these stages, each "KIND: SETTINGS"; empty where there is none."""
    file = tmp_path / "recipe.yaml"
    lines = [f"  - {stage}\n" for stage in stages]
    file.write_text(f"{head}{more}stages:\n{''.join(lines)}", encoding="utf-8")
    try:
        load_recipe(file)
    except UsageError as error:
        return str(error)
    return ""


TAPT = "tapt: {select: {near: task}}"
STAGES = {
    "vocabulary after dapt": (["dapt: {}", "vocabulary: {}"], "the vocabulary comes after dapt"),
    "vocabulary twice": (["vocabulary: {}", "vocabulary: {}"], "the vocabulary is extended twice"),
    "dapt after tapt": ([TAPT, "dapt: {}"], "dapt comes after tapt"),
    "a vocabulary of no source": (
        ["vocabulary: {source: domian}"],
        "no source 'domian' in data (line 6); did you mean 'domain'?",
    ),
    "general text of no source": (
        ["vocabulary: {warm: {replay: genral}}"],
        "no source 'genral' in data (line 6); did you mean 'general'?",
    ),
    "general text that is the domain": (
        ["vocabulary: {warm: {replay: domain}}"],
        "'domain' is both what the tokens are of and what is shown beside it (line 6); name a source of general text",
    ),
    "a share of no general text": (["vocabulary: {warm: {replay_share: 0.5}}"], "is a share of no source (line 6)"),
    "a vocabulary block over its step": (["vocabulary: {block: 4096, batch_tokens: 512}"], "holds no block of 4096"),
}
TRAINING = {
    "no source of that name": ("mix: {domian: 0.5, general: rest}", "did you mean 'domain'?"),
    "selected in dapt": ("mix: {selected: 0.5, general: rest}", "only tapt selects"),
    "nothing mixed": ("mix: {}", "nothing is mixed"),
    "two rests": ("mix: {domain: rest, general: rest}", "domain and general all say 'rest'"),
    "shares over one": ("mix: {domain: 0.7, general: {from: 0.1, to: 0.4}}", "add up to 110% at the end"),
    "shares over one in the middle": (
        "mix: {domain: {from: 0.9, to: 0.0}, general: {from: 0.0, to: 0.9, curve: step, steps: 2}, task: rest}",
        "add up to 135% after 50% of the stage",
    ),
    "shares under one": (
        "mix: {domain: 0.7, general: 0.2}",
        "add up to 90% at the beginning and no source takes the rest",
    ),
    "nothing left": ("mix: {domain: 1.0, general: rest}", "nothing is left for the rest"),
    "kl on a source without a share": (
        "mix: {domain: rest}\n      keep: {kl: {}}".replace("\n      ", ", "),
        "keep.kl.on: 'general' has no share in the mixture",
    ),
    "kl on nothing": ("keep: {kl: {on: []}}", "no source is named whose rows"),
    "a teacher nobody is": ("keep: {kl: {teacher: mine}}", "expected 'base' or 'before'"),
    "ewc on a source without a share": ("keep: {ewc: {weight: 1, on: task}}", "keep.ewc.on: 'task' has no share"),
    "l2sp on a source": ("keep: {l2sp: {weight: 1, on: general}}", "l2sp reads no text"),
    "qlora with new layers": ("method: qlora, expand: {}", "new layers do not go with qlora"),
    "lora with new layers": ("method: lora, expand: {}", "new layers do not go with lora"),
    "qlora with l2sp": (
        "method: qlora, keep: {l2sp: {weight: 1}}",
        "qlora leaves them as they are: they have no gradients",
    ),
    "lora with ewc": ("method: lora, keep: {ewc: {weight: 1}}", "they have no gradients"),
    "lora with freezing": ("method: lora, freeze: {layers: 2}", "lora freezes all of the model's own weights already"),
    "lm_head": ("method: {lora: {targets: [q_proj, lm_head]}}", "'lm_head' cannot have an adapter"),
    "lm_head by its path": ("method: {lora: {targets: [model.lm_head]}}", "'lm_head' cannot have an adapter"),
    "embeddings": ("method: {lora: {targets: [embed_tokens]}}", "new words are trained in a vocabulary stage"),
    "no targets": ("method: {lora: {targets: []}}", "no layer gets an adapter"),
    "a target that is a pattern": ("method: {lora: {targets: ['.*']}}", "names no layer"),
    "a rank for all weights": (
        "method: {kind: full, r: 8}",
        "'r' does not belong to full; lora, qlora, adalora have it",
    ),
    "virtual tokens for lora": (
        "method: {lora: {virtual_tokens: 3}}",
        "'virtual_tokens' does not belong to lora; prefix, prompt, p_tuning have it",
    ),
    "dora for adalora": ("method: {adalora: {dora: true}}", "'dora' does not belong to adalora; lora, qlora have it"),
    "pissa on 4 bits": ("method: {qlora: {init: pissa}}", "init pissa belongs to lora, and this is qlora"),
    "the error of 4 bits without any": ("method: {lora: {init: error}}", "init error belongs to qlora"),
    "pissa with dora": ("method: {lora: {init: pissa, dora: true}}", "a DoRA adapter begins as nothing"),
    "a rank of the head": ("method: {lora: {ranks: {lm_head: 4}}}", "'lm_head' names no layer with an adapter"),
    "a rank of a pattern": ("method: {lora: {ranks: {'(a+)+$': 4}}}", "names no layer with an adapter"),
    "ranks that grow": ("method: {adalora: {r: 8, start_r: 8}}", "ranks are pruned from 8 to 8"),
    "no time to prune": ("method: {adalora: {begin: 0.6, settle: 0.4}}", "take 100% of the steps and leave none"),
    "a prompt of nothing": ("method: {prompt: {text: ' '}}", "method.text: is empty"),
    "a text for p_tuning": ("method: {p_tuning: {text: hello}}", "'text' does not belong to p_tuning; prefix, prompt"),
    "a prefix computed again": ("method: prefix, activation_checkpointing: true", "cannot be computed again"),
    "a prompt with kl": ("method: prompt, keep: {kl: {}}", "without its virtual tokens nothing is forgotten"),
    "bitfit with new layers": ("method: bitfit, expand: {}", "new layers do not go with bitfit"),
    "houlsby with ewc": ("method: houlsby, keep: {ewc: {weight: 1}}", "they have no gradients"),
    "only new and frozen": ("expand: {}, freeze: {layers: 3}", "only the new layers are trained"),
    "thawing nothing": ("freeze: {unfreeze: true}", "no layer is frozen that could join later"),
    "a step below a block": ("block: 1024, batch_tokens: 512", "a step of 512 tokens holds no block of 1,024"),
    "a stage below a block": ("tokens: 100", "the whole stage of 100 tokens holds no block of 512"),
    "more at once than a step": ("micro_tokens: 16384", "16,384 tokens at once are more than a step's 8,192"),
    "decay of a cosine": ("lr: {curve: cosine, decay: 0.3}", "the curve cosine has no decay of its own"),
    "no plateau": ("lr: {curve: wsd, warm_up: 0.6, decay: 0.6}", "warming up and decay take 120% of the steps"),
    "reading what is not mixed": ("reading: {on: [task]}", "none of task has a share"),
    "a trainer's key misspelt": (
        "trainer: {adam_beat2: 0.9}",
        "unknown key 'adam_beat2' (line 6); did you mean 'adam_beta2'?",
    ),
    "the rate through the trainer": (
        "trainer: {learning_rate: 1.0}",
        "'learning_rate' cannot be passed on (line 6); set 'lr'",
    ),
    "a folder through the trainer": ("trainer: {output_dir: /tmp}", "'output_dir' cannot be passed on"),
    "pushing to the hub": ("trainer: {push_to_hub: true}", "nothing is sent anywhere"),
    "reporting elsewhere": ("trainer: {report_to: wandb}", "nothing is sent anywhere"),
    "remote code": ("trainer: {trust_remote_code: true}", "no model's own code is run"),
    "remote code inside": ("trainer: {model_init_kwargs: {trust_remote_code: true}}", "may hold attn_implementation"),
}
TASK = {
    "near a source that is not there": (
        "select: {near: taks}",
        "no source 'taks' in data (line 6); did you mean 'task'?",
    ),
    "near itself": ("select: {near: domain}", "'domain' is both where"),
    "from a source that is not there": ("select: {near: task, source: x}", "no source 'x' in data"),
    "nothing selected is mixed": ("select: {near: task}, mix: {general: rest}", "the selected text has no share"),
}
REST = {
    "a reserved name": ("", HEAD + "  selected: s\n", "cannot name a source"),
    "a name with a slash": ("", HEAD + "  a/b: s\n", "cannot name a source"),
    "path and synthetic": ("", HEAD + "  own: {path: x, synthetic: {}}\n", "has a path and synthetic text"),
    "an empty path": ("", HEAD + "  own: {path: ''}\n", "names no file or folder"),
    "an address": ("", HEAD + "  own: https://example.com/x.jsonl\n", "is an address"),
    "half a hub": ("", HEAD + "  own: 'hub:a b'\n", "no data set of the hub"),
    "all held out": ("", HEAD + "  own: {path: x, held_out: 1.0}\n", "holds every document back"),
    "a language in words": ("", HEAD + "  own: {path: x, languages: [english]}\n", "'english' is no language"),
    "measured but not there": ("measure: {on: [x]}\n", HEAD, "no source 'x' in data"),
    "measured but not held out": ("measure: {on: [task]}\n", HEAD, "holds no document back to measure on"),
    "a label twice": ("measure: {texts: {general: x}}\n", HEAD, "'general' is a source too"),
    "a label of questions": ("measure: {texts: {choices: x}}\n", HEAD, "cannot be a label"),
    "an empty prompt": ("measure: {prompts: ['  ']}\n", HEAD, "measure.prompts[0]: is empty"),
    "a prompt that is a book": (f"measure: {{prompts: [{'a' * 5000}]}}\n", HEAD, "4,000 are enough"),
    "no gate": ("gates: {dapt: [better]}\n", HEAD, "gates.dapt[0]: 'better' is no gate"),
    "a gate on a text nobody measures": (
        "gates: {dapt: [generl bits_per_byte <= +1%]}\n",
        HEAD,
        "did you mean 'general'?",
    ),
    "a gate on questions nobody asks": ("gates: {dapt: [choices choice_accuracy >= -0.02]}\n", HEAD, "is not measured"),
    "a gate of no stage": ("gates: {tapt: [general bits_per_byte <= +1%]}\n", HEAD, "there is no stage 'tapt'"),
}


@pytest.mark.parametrize("case", STAGES)
def test_stages_in_an_impossible_order_are_refused(tmp_path: Path, case: str) -> None:
    stages, said = STAGES[case]
    assert said in load(tmp_path, *stages)


@pytest.mark.parametrize("case", TRAINING)
def test_what_contradicts_itself_in_a_training_is_refused(tmp_path: Path, case: str) -> None:
    settings, said = TRAINING[case]
    assert said in load(tmp_path, f"dapt: {{{settings}}}")


@pytest.mark.parametrize("case", TASK)
def test_what_contradicts_itself_in_a_selection_is_refused(tmp_path: Path, case: str) -> None:
    settings, said = TASK[case]
    assert said in load(tmp_path, f"tapt: {{{settings}}}")


@pytest.mark.parametrize("case", REST)
def test_what_contradicts_itself_around_the_stages_is_refused(tmp_path: Path, case: str) -> None:
    more, head, said = REST[case]
    assert said in load(tmp_path, "dapt: {}", more=more, head=head)


FINE = {
    "defaults": ["dapt: {}"],
    "everything at once": [
        "vocabulary: {initialise: distil, warm: null}",
        "dapt: {keep: {kl: {}, l2sp: {weight: 1}, ewc: {weight: 1}}, expand: {only_new: false}, freeze: {layers: 2}}",
        "dapt: {method: {qlora: {targets: [q_proj, v_proj]}}, keep: {kl: {teacher: before, live: true}}}",
        "tapt: {select: {near: task}, mix: {selected: {from: 0.5, to: 1}, general: rest}, reading: {}}",
    ],
    "shares that add up without a rest": ["dapt: {mix: {domain: {from: 0.2, to: 0.7}, general: {from: 0.8, to: 0.3}}}"],
    "three tenths": ["dapt: {mix: {domain: 0.1, general: 0.2, task: 0.7}}"],
    "fields of the trainer": ["dapt: {trainer: {adam_beta2: 0.98, model_init_kwargs: {attn_implementation: sdpa}}}"],
    "a plateau": ["dapt: {lr: {peak: 1e-5, curve: wsd, warm_up: 0.1, decay: 0.9}}"],
}


@pytest.mark.parametrize("case", FINE)
def test_what_goes_together_is_let_through(tmp_path: Path, case: str) -> None:
    assert load(tmp_path, *FINE[case]) == ""


def test_gates_on_what_is_measured_are_let_through(tmp_path: Path) -> None:
    more = (
        "measure: {texts: {news: n.txt}, choices: q.jsonl}\n"
        "gates: {dapt: [domain bits_per_byte <= -8%, news bits_per_byte <= +1%, choices choice_accuracy >= -0.02]}\n"
    )
    assert load(tmp_path, "dapt: {}", more=more) == ""


def test_all_contradictions_are_told_together(tmp_path: Path) -> None:
    said = load(tmp_path, "dapt: {mix: {x: rest}, tokens: 1}", "vocabulary: {}", more="measure: {on: [y]}\n")
    assert len(said.splitlines()) == 4

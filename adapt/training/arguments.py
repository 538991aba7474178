"""The settings of a stage → arguments of transformers' Trainer; and which of its fields a recipe may not set itself.

Fathom's loop stands on transformers' Trainer and not on TRL's SFTTrainer, which is the same Trainer with a preparation
of data sets before it. Here the rows are fixed on disk already; that class takes no map-style data set, computes
entropy and accuracy over the whole vocabulary for every token, and waits for the device three times a micro-batch. What
TRL adds to the fields is about that preparation, so none of it applies here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapt.recipe import LearningRate, Training
from retrieval.errors import UsageError

_ROWS = "the rows are packed and ordered before training"
_SAVING = "Fathom writes its own checkpoints (checkpoint_minutes, checkpoint_steps)"
_MEASURING = "stages are measured by 'measure' and 'gates'"
_HUB = "nothing is sent anywhere"
OURS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token max_length truncation_mode packing "
            "packing_strategy padding_free pad_to_multiple_of eval_packing shuffle_dataset completion_only_loss "
            "assistant_only_loss chat_template_path train_sampling_strategy length_column_name remove_unused_columns "
            "label_names dataloader_drop_last dataloader_num_workers dataloader_persistent_workers "
            "dataloader_prefetch_factor dataloader_in_order dataloader_multiprocessing_context dataloader_pin_memory "
            "data_seed accelerator_config auto_find_batch_size ignore_data_skip"
        ).split(),
        _ROWS,
    ),
    **dict.fromkeys(
        (
            "output_dir save_strategy save_steps save_total_limit save_only_model save_on_each_node "
            "enable_jit_checkpoint resume_from_checkpoint restore_callback_states_from_checkpoint"
        ).split(),
        _SAVING,
    ),
    **dict.fromkeys(
        (
            "do_train do_eval do_predict eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps "
            "eval_do_concat_batches eval_use_gather_object per_device_eval_batch_size batch_eval_metrics "
            "bf16_full_eval fp16_full_eval prediction_loss_only include_for_metrics load_best_model_at_end "
            "metric_for_best_model greater_is_better"
        ).split(),
        _MEASURING,
    ),
    **dict.fromkeys(
        (
            "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision report_to "
            "project run_name trackio_space_id trackio_bucket_id trackio_static_space_id"
        ).split(),
        _HUB,
    ),
    **dict.fromkeys(
        (
            "logging_steps logging_strategy logging_first_step logging_nan_inf_filter log_on_each_node log_level "
            "log_level_replica disable_tqdm include_num_input_tokens_seen skip_memory_metrics"
        ).split(),
        "every step is a line of metrics.jsonl",
    ),
    **dict.fromkeys(("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"), "set 'lr'"),
    **dict.fromkeys(("num_train_epochs", "max_steps"), "set 'tokens' or 'epochs'"),
    "per_device_train_batch_size": "set 'micro_tokens'",
    "gradient_accumulation_steps": "set 'batch_tokens'",
    "optim": "set 'optimizer'",
    "weight_decay": "set 'weight_decay' of the stage",
    "max_grad_norm": "set 'clip'",
    "seed": "set 'seed' of the recipe",
    **dict.fromkeys(("bf16", "fp16"), "set 'precision'"),
    **dict.fromkeys(
        ("activation_checkpointing", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
        "set 'activation_checkpointing' of the stage",
    ),
    "activation_offloading": "set 'activation_checkpointing' of the stage",
    **dict.fromkeys(
        ("loss_type", "label_smoothing_factor", "router_aux_loss_coef", "average_tokens_across_devices"),
        "the loss is the mean over all tokens of a step",
    ),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), "the head and the loss are computed together already"),
    "deepspeed": "several devices share a model by FSDP2, whose checkpoints Fathom can write without pickles",
    "trust_remote_code": "no model's own code is run",
    "use_cache": "training keeps no cache",
    **dict.fromkeys(("use_cpu", "local_rank"), "the machine and the launcher decide this"),
}
"""Fields of TRL's SFTConfig (and `local_rank`, which was one) that a recipe's `trainer` may not hold, and why or what
to set instead."""
PASSED_ON: Mapping[str, str] = {"model_init_kwargs": "attn_implementation"}
"""Fields of SFTConfig that are no TrainingArguments and count here: the one key that each may hold."""
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}


def fields() -> list[str]:
    """Names that `trainer` may hold: transformers' TrainingArguments without OURS, and PASSED_ON."""
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return sorted((names - set(OURS)) | set(PASSED_ON))


def check_passed(trainer: Mapping[str, Any]) -> None:
    """Raises UsageError for what a recipe may not pass on."""
    for name, value in trainer.items():
        if name in OURS:
            raise UsageError(f"trainer.{name} cannot be set: {OURS[name]}")
        if name in PASSED_ON and (not isinstance(value, dict) or set(value) - {PASSED_ON[name]}):
            raise UsageError(f"trainer.{name} may hold {PASSED_ON[name]} and nothing else")


def attention(trainer: Mapping[str, Any]) -> str | None:
    """The attention that a recipe asks for; None is the model's default. A kernel of the hub ("owner/name") is code and
    refused. Raises UsageError."""
    check_passed(trainer)
    wish = (trainer.get("model_init_kwargs") or {}).get("attn_implementation")
    if wish is not None and wish not in ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"):
        raise UsageError(
            f"attn_implementation '{wish}' is not known; eager, sdpa, flex_attention, flash_attention_2 and "
            "flash_attention_3 are (no kernel is fetched from the hub)"
        )
    return wish


def rates(lr: LearningRate, steps: int) -> Callable[[int], float]:
    """The share of the peak that each step has, counted from 0: the first already learns, the last has the floor.

    Cosine is transformers' `cosine_warmup_with_min_lr`, to the bit. The others are here since transformers' own
    (`warmup_stable_decay`, `linear`, `constant_with_warmup`) spend a step at rate 0.
    """
    warm = min(math.ceil(lr.warm_up * steps), max(0, steps - 1))
    rest = steps - warm
    decay = {"cosine": rest, "linear": rest, "wsd": min(math.ceil(lr.decay * steps), rest), "constant": 0}[lr.curve]
    shape: Callable[[float], float] = {
        "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
        "wsd": lambda done: 1.0 - math.sqrt(done),
    }.get(lr.curve, lambda done: 1.0 - done)

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step + 1 - (steps - decay)) / max(1, decay))
        return 1.0 if done <= 0 or not decay else shape(done) * (1 - lr.floor) + lr.floor

    return rate


def arguments(
    settings: Training, *, folder: Path, steps: int, micro_rows: int, accumulation: int, seed: int, precision: str
) -> Any:
    """transformers' TrainingArguments. Raises UsageError for fields that a recipe may not pass on, or values that the
    library refuses."""
    import torch
    from transformers import TrainingArguments

    check_passed(settings.trainer)
    passed = {name: value for name, value in settings.trainer.items() if name not in PASSED_ON}
    unknown = sorted(set(passed) - set(fields()))
    if unknown:
        raise UsageError(f"trainer.{unknown[0]} is no field of transformers' TrainingArguments")
    cuda = torch.cuda.is_available()
    if settings.optimizer != "adamw" and not cuda:
        raise UsageError(f"optimizer {settings.optimizer} needs a CUDA GPU; use adamw")
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": settings.lr.peak,
        "optim": _OPTIMIZERS.get(settings.optimizer, settings.optimizer),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip,
        "seed": seed,
        "bf16": precision == "bf16",
        "activation_checkpointing": settings.activation_checkpointing,
        "use_cpu": not cuda,
        "save_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    try:
        return TrainingArguments(**{"adam_beta1": 0.9, "adam_beta2": 0.95, **passed, **own})
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"the trainer refuses its settings: {str(error).splitlines()[0][:300]}") from error

"""Checks the node ``trainer``: it takes every argument of Lightning's Trainer that the project does not set itself."""

from typing import Any

from descent.config.schema import TrainerConfig, keys_of
from descent.config.source import find, signature_of
from descent.config.targets import check_finite, check_value, is_default
from descent.config.types import PositiveInteger, check
from descent.errors import UserError, unknown_key

TRAINER = "lightning.pytorch.Trainer"

ELSEWHERE = {
    "logger": "logger=... chooses the logger",
    "callbacks": "each entry of callbacks is one",
    "gradient_clip_val": "set clip.gradient_clip_val instead",
    "gradient_clip_algorithm": "set clip.gradient_clip_algorithm instead",
    "max_time": "set stopping.max_seconds instead",
    "enable_checkpointing": "runs resume from their checkpoints; checkpoint.* sets when they are written",
    "default_root_dir": "output goes below logs/, and name=... names it",
    "plugins": "the project's own plugin writes checkpoints; trainer.precision chooses the precision",
    "enable_model_summary": "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary prints one",
    "num_sanity_val_steps": "trainer.fast_dev_run=true tries validation before a long run",
    "barebones": "runs write checkpoints and logs",
    "use_distributed_sampler": "each batch is split over the processes, and each row goes to one of them",
}


def refusal(name: str) -> str | None:
    """Why an argument of the Trainer is not a config key; ``None``: it is one, or there is no such argument."""
    why = ELSEWHERE.get(name)
    return why and f"trainer.{name} must not be set: {why}"


def checked_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """The ``arguments`` of Lightning's Trainer that the schema does not list, without those at Lightning's defaults.

    Raises:
        UserError: an argument that Lightning does not have, of the wrong type, or that the project sets itself.
    """
    found = find(TRAINER)
    signature = signature_of(found) if found else None
    assert signature is not None
    if trainer.precision != "32-true":  # Lightning has it; the other values are in two more large files
        check_value(trainer.precision, "trainer.precision", signature.arguments["precision"])
    checked: dict[str, Any] = {}
    for name, value in trainer.arguments.items():
        key, argument = f"trainer.{name}", signature.arguments.get(name)
        if name in ELSEWHERE:
            raise UserError(refusal(name))
        if argument is None:
            known = keys_of(TrainerConfig)
            others = [entry for entry in signature.arguments if entry not in known and not refusal(entry)]
            raise unknown_key(key, [*known, *others])
        check_finite(value, key)
        check_value(value, key, argument)
        if name == "accumulate_grad_batches":  # Lightning accepts 0 and divides by it
            check(PositiveInteger, value, key)
        if not is_default(value, argument):
            checked[name] = value
    return checked

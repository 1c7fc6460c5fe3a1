"""The node ``trainer``: every argument of Lightning's Trainer but those that the project sets itself."""

from typing import Any

from descent.config.schema import TrainerConfig, keys_of
from descent.config.source import find, signature_of
from descent.config.targets import check_finite, check_value, is_default
from descent.errors import UserError, unknown_key

TRAINER = "lightning.pytorch.Trainer"

ELSEWHERE = {
    "logger": "logger=... chooses what logs",
    "callbacks": "each entry of callbacks is one",
    "gradient_clip_val": "clip.gradient_clip_val is the key for it",
    "gradient_clip_algorithm": "clip.gradient_clip_algorithm is the key for it",
    "max_time": "stopping.max_seconds is the key for it",
    "enable_checkpointing": "a run is resumed from its checkpoints; checkpoint.* says when they are written",
    "default_root_dir": "output goes below logs/, and name=... names it",
    "plugins": "the project's own writes checkpoints; trainer.precision chooses the precision",
    "enable_model_summary": "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary prints one",
    "num_sanity_val_steps": "trainer.fast_dev_run=true tries validation before a long run",
    "barebones": "a run keeps checkpoints and logs",
    "use_distributed_sampler": "each batch is shared out over the processes, each row to one of them",
}


def refusal(name: str) -> str | None:
    """Why an argument of the Trainer is no key of the config; ``None``: it is one, or there is no such argument."""
    why = ELSEWHERE.get(name)
    return why and f"trainer.{name} must not be set: {why}"


def checked_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """The ``arguments`` of Lightning's Trainer that the schema does not list; its own defaults are left out.

    Raises:
        UserError: an argument that is not Lightning's, of another type, or that the project sets itself.
    """
    if not trainer.arguments and trainer.precision == "32-true":
        return {}  # and Lightning's source, for which it takes a fiftieth of a run's start, is not read
    found = find(TRAINER)
    signature = signature_of(found) if found else None
    assert signature is not None
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
        if not is_default(value, argument):
            checked[name] = value
    return checked

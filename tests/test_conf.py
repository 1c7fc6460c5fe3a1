"""Tests every file in ``conf/``, found by globbing, so that new options are tested too."""

from itertools import cycle, product
from pathlib import Path

import pytest
import yaml
from conftest import CONF, Run, config_of, options

from descent.errors import UserError, note_once

NEEDED = {"table": ("data.path=rows.csv", "data.target=y")}  # keys that an option requires
SMALL = ("data.num_samples=40", "trainer.max_epochs=12")  # one step an epoch; warmup_cosine warms up over ten


def needs_full_batch(optimizer: str) -> bool:
    text = (CONF / "optimizer" / f"{optimizer}.yaml").read_text()
    return bool(yaml.safe_load(text).get("full_batch_only"))


def test_defaults_are_those_of_the_interface() -> None:
    chosen = config_of().choices
    assert chosen == {
        "data": "synthetic",
        "model": "linear",
        "optimizer": "sgd",
        "scheduler": "none",
        "batch": "mini",
        "clip": "none",
        "stopping": "none",
        "trainer": "default",
        "callbacks": "regression",
        "logger": "tensorboard",
    }


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_option_says_what_it_is_in_its_first_comment(path: Path) -> None:
    first = next(line for line in path.read_text().splitlines() if "@package" not in line)
    assert first.startswith("# ") and len(first) > 10, f"{path} must begin with a comment, which --help shows"


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_ends_within_5_percent_of_least_squares(optimizer: str, run: Run) -> None:
    batch = "full" if needs_full_batch(optimizer) else "mini"
    result = run(f"optimizer={optimizer}", f"batch={batch}")
    assert result.optimum is not None
    excess = result.metrics["train/loss"] / result.optimum["loss"] - 1
    advice = f"{excess:.1%} above least squares after 20 epochs: conf/optimizer/{optimizer}.yaml needs a better lr"
    assert -1e-6 < excess <= 0.05, advice  # single precision may round slightly below


def works_or_refuses(
    run: Run, optimizer: str, scheduler: str, batch: str, clip: str, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [f"optimizer={optimizer}", f"scheduler={scheduler}", f"batch={batch}", f"clip={clip}", *SMALL]
    if needs_full_batch(optimizer) and batch != "full":
        with pytest.raises(UserError, match=rf"batch.size must be null \(batch=full\) with optimizer={optimizer}"):
            run(*overrides)
    else:
        result = run(*overrides)
        assert result.status == "completed"
        assert result.metrics["val/loss"] > 0
        assert "the config has" not in caplog.text  # the optimizer and the scheduler are those of the config


BATCH_AND_CLIP = list(product(options("batch"), options("clip")))
OPTIMIZERS, SCHEDULERS = options("optimizer"), options("scheduler")
EVERY_PAIR = list(product(OPTIMIZERS, SCHEDULERS))  # in `make soak`
SOME_PAIRS = [  # every optimizer and every scheduler
    (OPTIMIZERS[i % len(OPTIMIZERS)], SCHEDULERS[i % len(SCHEDULERS)])
    for i in range(max(len(OPTIMIZERS), len(SCHEDULERS)))
]


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "batch", "clip"),
    [(*pair, *rest) for pair, rest in zip(SOME_PAIRS, cycle(BATCH_AND_CLIP), strict=False)],
)
def test_optimizers_work_with_schedulers(
    optimizer: str, scheduler: str, batch: str, clip: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    note_once.cache_clear()
    works_or_refuses(run, optimizer, scheduler, batch, clip, caplog)


@pytest.mark.soak
@pytest.mark.parametrize(("optimizer", "scheduler"), EVERY_PAIR)
def test_every_combination_works_or_refuses(
    optimizer: str, scheduler: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    note_once.cache_clear()
    for batch, clip in BATCH_AND_CLIP:
        works_or_refuses(run, optimizer, scheduler, batch, clip, caplog)


# ddp_cpu starts the same command in another process, see test_several_processes.py
@pytest.mark.parametrize("trainer", [option for option in options("trainer") if option != "ddp_cpu"])
def test_every_trainer_works_or_says_what_this_machine_lacks(trainer: str, run: Run) -> None:
    try:
        result = run(f"trainer={trainer}", *SMALL)
    except UserError as error:
        assert str(error).startswith(("trainer.accelerator must be one", "trainer.precision must be one"))
    else:
        assert result.status == "completed"
        assert result.metrics["val/loss"] < 5


@pytest.mark.parametrize("data", [option for option in options("data") if option not in NEEDED])
def test_every_data_set_trains_with_the_defaults(data: str, run: Run) -> None:
    result = run(f"data={data}")
    assert result.status == "completed"
    assert result.optimum is not None
    assert result.metrics["train/loss"] >= result.optimum["loss"] - 1e-9


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("model", options("model"))
def test_every_model_learns_with_every_loss(model: str, loss: str, run: Run) -> None:
    result = run(f"model={model}", f"model.loss={loss}", "figures=true", "predict_at=[[1,0,0,0,0]]")
    assert result.status == "completed"
    assert result.metrics["val/r2"] > 0.8 and result.metrics["test/r2"] > 0.8


@pytest.mark.parametrize("debug", options("debug"))
def test_every_debug_option_runs(debug: str, run: Run) -> None:
    assert run(f"debug={debug}").status == "completed"


@pytest.mark.parametrize("data", ["synthetic", "diabetes"])
def test_overfitting_a_few_rows_brings_the_loss_to_zero(data: str, run: Run) -> None:
    result = run("debug=overfit", f"data={data}")
    assert result.metrics["train/loss"] < 1e-6 * (1 if data == "synthetic" else 5000)


def test_the_profiler_writes_its_table_into_the_run_directory(run: Run, tmp_path: Path) -> None:
    run("debug=profiler")
    assert "run_training_batch" in (tmp_path / "0" / "profile" / "fit-simple.txt").read_text()

"""Tests whole configs: keys that conflict, what is kept, which key wins and what is left out."""

import errno
import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONF, ROOT, config_of, needs_sweep, options, save_config
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from descent.config.help import help_text
from descent.config.hparams import flat_hparams
from descent.config.identity import config_digest, flat_config
from descent.config.messages import one_line
from descent.config.parse import parse
from descent.config.schema import TrainerConfig, keys_of
from descent.config.trainer import ELSEWHERE
from descent.errors import UserError
from descent.run import cli
from descent.run.cli import load_config
from descent.run.console import print_choices
from descent.run.run_dirs import job_label
from descent.run.saved_config import saved_config
from descent.run.train import train
from descent.training.build import build

OLD_TRAINER = (  # the keys of the first schema
    *("accelerator", "precision", "max_epochs", "max_steps", "log_every_n_steps", "check_val_every_n_epoch"),
    *("deterministic", "fast_dev_run", "profiler", "enable_progress_bar"),
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=lbfgs", "batch=single"], r"batch.size must be null \(batch=full\) with optimizer=lbfgs"),
        (["scheduler=step", "+scheduler.gama=1"], "scheduler.gama is not a key: scheduler=step takes step_size"),
        (
            ["optimizer=adam", "optimizer.betas=0.9"],
            r"optimizer.betas is not set in this config: \+optimizer.betas=...",
        ),
        (["optimizer=adam", "+optimizer.betas=0.9"], "optimizer.betas must be 2 values, each a number .*, got 0.9"),
        (["scheduler=step", "scheduler.interval=day"], "scheduler.interval must be one of epoch, step, got 'day'"),
        (["scheduler=step", "~scheduler.step_size"], "scheduler.step_size is missing: scheduler=step needs it"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises((UserError, HydraException)) as raised:
        config_of(*overrides)
    assert re.search(message, one_line(raised.value))


@pytest.mark.parametrize(
    ("overrides", "group", "message"),
    [
        (["model.bias=false", "model.init_bias=1"], "model", "model.init_bias must be null when model.bias is false, "),
        (["data=line", "data.targets=[1]"], "data", r"data.targets must be as long as data.inputs \(4\), got \[1\]"),
        (
            ["data=table", "data.path=no.csv", "data.target=y"],
            "data",
            "data.path must be an existing CSV or Parquet file, got",
        ),
    ],
)
def test_values_that_only_the_class_can_judge_are_refused_as_it_is_made(
    overrides: list[str], group: str, message: str
) -> None:
    spec = getattr(config_of(*overrides), group)
    with pytest.raises(UserError, match=f"^{message}"):
        build(spec, group, object)


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        (["stopping=patience", "stopping.monitor=val/r2"], "stopping.mode"),
        (["scheduler=plateau", "scheduler.monitor=val/r2"], "scheduler.mode"),
    ],
)
def test_the_direction_of_a_metric_is_never_guessed(overrides: list[str], mode: str) -> None:
    with pytest.raises(UserError, match=f"{mode} must be min or max, because monitor.mode is for val/loss"):
        config_of(*overrides)
    config_of(*overrides, "monitor={metric: val/r2, mode: max}")
    config_of(*overrides, f"++{mode}=max")


def test_what_waits_for_a_metric_waits_for_the_one_that_decides() -> None:
    config = config_of("stopping=patience", "scheduler=plateau", "monitor={metric: val/acc, mode: max}")
    assert config.stopping.monitor == config.scheduler["monitor"] == "val/acc"
    assert config.stopping.mode == config.scheduler["mode"] == "max"
    assert config_of("scheduler=step").scheduler["monitor"] is None


def test_a_scheduler_that_says_no_mode_has_that_of_its_metric() -> None:
    config = config_of("scheduler=plateau", "~scheduler.mode", "monitor={metric: val/acc, mode: max}")
    assert config.scheduler["mode"] == "max"  # torch's default is min
    assert config.model["scheduler"]["mode"] == "max"  # from which the scheduler is built
    with pytest.raises(UserError, match=r"scheduler\.mode must be min or max, because"):
        config_of("scheduler=plateau", "~scheduler.mode", "scheduler.monitor=val/r2")


@pytest.mark.parametrize(("scheduler", "monitor"), [("plateau", "val/acc"), ("step", None)])
def test_a_scheduler_needs_no_more_than_its_class_and_arguments(
    scheduler: str, monitor: str | None, tmp_path: Path
) -> None:
    for path in CONF.iterdir():
        if path.name != "scheduler":
            (tmp_path / path.name).symlink_to(path)
    whole = yaml.safe_load((CONF / f"scheduler/{scheduler}.yaml").read_text())
    own = {key: value for key, value in whole.items() if key not in ("interval", "frequency", "monitor", "mode")}
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/mine.yaml").write_text(yaml.safe_dump(own))
    metric = "monitor={metric: val/acc, mode: max}"
    mine = cli.load_config(tmp_path, ["scheduler=mine", metric])
    assert [mine.scheduler[key] for key in ("interval", "frequency", "monitor")] == ["epoch", 1, monitor]
    shipped = config_of(f"scheduler={scheduler}", metric)
    assert mine.scheduler == mine.model["scheduler"] == shipped.scheduler
    assert config_digest(mine) == config_digest(shipped)


def test_a_plateau_of_ones_own_has_the_mode_of_its_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plateau_of_test.py").write_text(
        "from torch.optim.lr_scheduler import ReduceLROnPlateau as Base\nclass Later(Base):\n    pass\n"
        "from lightning.pytorch import Callback\n"
        "class Watch(Callback):\n    def __init__(self, scheduler): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = "packages=[plateau_of_test,regression]", "monitor={metric: val/acc, mode: max}"
    watch = "+callbacks.watch={_target_: plateau_of_test.Watch, scheduler: ${scheduler}}"
    config = config_of(
        "scheduler=plateau", "scheduler._target_=plateau_of_test.Later", "~scheduler.mode", *metric, watch
    )
    assert config.scheduler["mode"] == config.model["scheduler"]["mode"] == "max"
    assert config.callbacks["watch"]["scheduler"] == config.scheduler
    assert "mode" not in config_of("scheduler=step", *metric).scheduler


def test_callbacks_and_loggers_are_kept_with_their_arguments() -> None:
    swa = {"_target_": "lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs": 0.1}
    config = config_of("+callbacks.swa={_target_: " + swa["_target_"] + ", swa_lrs: 0.1}")  # type: ignore[operator]
    assert config.callbacks == config_of().callbacks | {"swa": swa}
    assert config_of("callbacks=none", "logger=csv").callbacks == {}
    csv = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": None, "name": "csv"}
    assert config_of("logger=csv").logger == {"csv": csv} and config_of("logger=none").logger == {}
    assert config_digest(config) != config_digest(config_of())


SINGLE = ("device_stats", "lr_monitor", "model_summary", "swa")


@pytest.mark.parametrize("name", SINGLE)
def test_an_option_of_one_callback_brings_none_of_the_examples(name: str) -> None:
    config = config_of(f"callbacks={name}")
    assert [*config.callbacks] == [name] and config.choices["callbacks"] == name


def test_several_options_of_callbacks_and_loggers_are_put_together(tmp_path: Path) -> None:
    mine = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelSummary"
    config = config_of("callbacks=[regression,swa,lr_monitor]", mine, "logger=[tensorboard,csv]")
    assert [*config.callbacks] == [*config_of().callbacks, "swa", "lr_monitor", "mine"]
    assert config.callbacks["swa"]["swa_lrs"] == config.optimizer["lr"]
    assert config.logger == config_of("logger=tensorboard_and_csv").logger and len(config.logger) == 2
    assert [*config_of("callbacks=none", mine).callbacks] == ["mine"]
    save_config(tmp_path, "callbacks=[regression,swa]")  # resuming reads it
    assert saved_config(tmp_path).callbacks == config_of("callbacks=[regression,swa]").callbacks
    with pytest.raises(UserError, match=r"^stopping must be one option: -m stopping=... runs several"):
        config_of("stopping=[patience,converged]")


def test_a_key_of_the_projects_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text((CONF / "train.yaml").read_text() + "\nclasses: {cat: 1}\nnames: [a]\n")
    for group in CONF.iterdir():
        if group.is_dir():
            (tmp_path / group.name).symlink_to(group)
    config = cli.load_config(tmp_path, ["classes.cat=2"])
    assert config.extra == {"classes": {"cat": 2}, "names": ["a"], "predict_at": [], "figures": True}
    assert config_of("predict_at=[[1,2,3,4,5]]").extra == {"predict_at": [[1, 2, 3, 4, 5]], "figures": True}
    assert flat_config(config)["classes.cat"] == 2
    assert flat_config(config)["names"] == ["a"] and "name" not in flat_config(config)
    with pytest.raises(UserError, match="klasses is not a key"):
        cli.load_config(tmp_path, ["+klasses=2"])


def test_a_config_group_of_the_projects_own_is_kept(tmp_path: Path) -> None:
    text = (CONF / "train.yaml").read_text().replace("defaults:\n", "defaults:\n  - paths: here\n")
    (tmp_path / "train.yaml").write_text(text)
    for group in CONF.iterdir():
        if group.is_dir():
            (tmp_path / group.name).symlink_to(group)
    (tmp_path / "paths").mkdir()
    for option, rows in {"here": 7, "there": 9}.items():
        (tmp_path / f"paths/{option}.yaml").write_text(f"rows: {rows}\n")
    overrides = ["data.num_samples=${paths.rows}"]
    for option, rows in {"here": 7, "there": 9}.items():
        config = cli.load_config(tmp_path, [f"paths={option}", *overrides], tmp_path / option)
        assert (config.extra["paths"], config.data["num_samples"]) == ({"rows": rows}, rows)
        assert saved_config(tmp_path / option).data["num_samples"] == rows


OWN_CALLBACK = "+callbacks.own._target_=lightning.pytorch.callbacks.RichProgressBar"  # console_kwargs has any keys


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        ("${hydra:runtime.output_dir}/own", "{}/own"),
        ("file:${hydra:runtime.output_dir}/own", "file:{}/own"),
        ("[1,'${hydra:runtime.output_dir}/own']", [1, "{}/own"]),
        ("${callbacks.own.console_kwargs.first}", "{}/own"),
    ],
)
def test_a_path_in_the_runs_directory_moves_with_it_and_is_no_setting(given: str, inside: Any, tmp_path: Path) -> None:
    first = "+callbacks.own.console_kwargs.first=${hydra:runtime.output_dir}/own"
    overrides = [OWN_CALLBACK, f"+callbacks.own.console_kwargs.path={given}", first]
    run_dir, moved = tmp_path / "run", tmp_path / "moved"

    def path(directory: Path) -> Any:
        return [1, f"{directory}/own"] if isinstance(inside, list) else inside.format(directory)

    config = cli.load_config(CONF, overrides, run_dir)
    assert config.callbacks["own"]["console_kwargs"]["path"] == path(run_dir)
    saved = saved_config(run_dir)
    assert saved.callbacks == config.callbacks and config_digest(saved) == config_digest(config)
    run_dir.rename(moved)
    assert saved_config(moved).callbacks["own"]["console_kwargs"]["path"] == path(moved)
    assert config_digest(saved_config(moved)) == config_digest(config)
    assert not [key for key in [*flat_config(config), *flat_hparams(config)] if key.endswith("path")]


def test_a_value_that_begins_like_the_runs_directory_is_a_setting(tmp_path: Path) -> None:
    inside = "+callbacks.own.console_kwargs.inside=${hydra:runtime.output_dir}"
    similar = OWN_CALLBACK, f"+callbacks.own.console_kwargs.similar={tmp_path}/run15", inside
    found = flat_config(cli.load_config(CONF, similar, tmp_path / "run1"))
    assert [key for key in found if key.startswith("callbacks.own.console")] == ["callbacks.own.console_kwargs.similar"]


def test_without_the_runs_directory_a_config_that_uses_it_is_loaded_but_not_trained(tmp_path: Path) -> None:
    config = cli.load_config(CONF, [OWN_CALLBACK, "+callbacks.own.console_kwargs.a=${hydra:runtime.output_dir}/own"])
    with pytest.raises(UserError, match=r"^load_config must get run_dir, because the config uses \$\{hydra:runtime"):
        train(config, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_options_of_groups_are_known_as_hydra_knows_them() -> None:
    texts = "/x/${hydra:runtime.choices.model}/${hydra:runtime.choices.experiment}", "${hydra:runtime.choices.debug}"
    config = cli.load_config(
        CONF,
        [OWN_CALLBACK, f"+callbacks.own.console_kwargs.a={texts[0]}", f"+callbacks.own.console_kwargs.b={texts[1]}"],
    )
    assert config.callbacks["own"]["console_kwargs"] == {"a": "/x/linear/None", "b": None}
    assert flat_config(config)["callbacks.own.console_kwargs.a"] == "/x/linear/None"
    rule = r"must be \$\{hydra:runtime.output_dir\}, .*; a resumed run does not know the others$"
    for unknown in ("job.num", "runtime.choices.none", "runtime.none.none"):
        with pytest.raises(UserError, match=rf"^\$\{{hydra:{unknown}\}} {rule}"):
            cli.load_config(CONF, [OWN_CALLBACK, f"+callbacks.own.console_kwargs.a=x${{hydra:{unknown}}}"])


def test_a_package_is_allowed_by_naming_it_in_the_config() -> None:
    pytest.importorskip("schedulefree")
    overrides = "optimizer._target_=schedulefree.SGDScheduleFree", "+optimizer.warmup_steps=5"
    with pytest.raises(UserError, match=r"optimizer._target_ must be a class in torch, .*key packages lists them"):
        config_of(*overrides)
    config = config_of(*overrides, "packages=[torch,lightning,descent,regression,schedulefree]")
    assert config.optimizer["warmup_steps"] == 5
    more = "packages=[torch,lightning,descent,regression,schedulefree,torchmetrics]"
    assert config_digest(config) == config_digest(config_of(*overrides, more))


def test_an_old_run_is_read_with_defaults_and_has_the_digest_that_it_had() -> None:
    options = "stopping=patience", "scheduler=plateau", "callbacks=none"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        old: Any = OmegaConf.to_container(compose("train", [*options]), resolve=True)
    for key in ("monitor", "logger", "callbacks"):  # as saved before these keys existed
        del old[key]
    new = [
        ("stopping", "mode"),
        ("scheduler", "mode"),
        *(("trainer", k) for k in old["trainer"] if k not in OLD_TRAINER),
    ]
    for group, key in new:
        del old[group][key]
    now = config_of(*options)
    config = parse(old, own=["predict_at", "figures"], links=now.links)  # a saved config keeps its interpolations
    assert (config.monitor, config.callbacks, config.logger) == (now.monitor, {}, {})
    assert (config.stopping, config.scheduler, config.trainer) == (now.stopping, now.scheduler, now.trainer)
    assert config_digest(config) == config_digest(now)
    assert not {"monitor.metric", "trainer.fast", "packages", "extra"} & {*flat_config(now)}


def test_a_run_from_before_data_were_classes_is_refused_in_one_line() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        old: Any = OmegaConf.to_container(compose("train", []), resolve=True)
    old["data"] = {"source": "synthetic", "num_samples": 10}
    with pytest.raises(UserError, match=r"^data\._target_ is missing: it names the class, in torch, lightning"):
        parse(old, own=["predict_at", "figures"])


def test_arguments_of_the_optimizer_class_may_be_added() -> None:
    assert config_of("+optimizer.momentum=0.5").optimizer["momentum"] == 0.5


def test_further_arguments_of_the_trainer_are_hyperparameters_where_they_are_not_lightnings_defaults() -> None:
    config = config_of("trainer.accumulate_grad_batches=4", "trainer.precision=bf16-true", "trainer.devices=1")
    assert config.trainer.arguments == {"accumulate_grad_batches": 4}
    found = flat_hparams(config)
    assert found["trainer.accumulate_grad_batches"] == 4 and found["trainer.precision"] == "bf16-true"
    assert "trainer.arguments" not in found and "trainer.detect_anomaly" not in found
    assert config_digest(config) != config_digest(config_of("trainer.precision=bf16-true"))
    assert config_digest(config_of("trainer.fast=false")) == config_digest(config_of())


def test_every_argument_of_lightnings_trainer_is_a_key_or_has_its_place_elsewhere() -> None:
    arguments = inspect.signature(Trainer.__init__).parameters
    written = yaml.safe_load((CONF / "trainer/default.yaml").read_text())
    assert {*arguments} - {"self"} == ({*written} - {"fast", "num_threads"}) | {*ELSEWHERE}
    further = {key: value for key, value in written.items() if key not in keys_of(TrainerConfig)}
    assert further == {key: arguments[key].default for key in further}


def test_an_error_of_the_system_that_names_no_file_is_told_with_the_runs_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hydra = OmegaConf.create({"hydra": {"runtime": {"output_dir": "logs/runs/mine"}}})
    monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra)
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert one_line(error) == "cannot write to logs/runs/mine: File too large"
    assert "logs/runs/mine" not in one_line(FileNotFoundError(errno.ENOENT, "No such file", "other"))


def test_a_name_of_digits_is_a_text() -> None:
    assert config_of("name=2024").name == "2024"


def test_a_name_with_a_line_feed_does_not_make_a_message_two_lines() -> None:
    assert one_line(UserError("column a\n  b of x.csv must be numeric")) == "column a b of x.csv must be numeric"


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_two_experiments_at_once_are_refused(group: str) -> None:
    first, second = options(group)[:2]
    with pytest.raises(UserError, match=rf"^{group} must be one option"):
        config_of(f"{group}=[{first},{second}]")


def test_help_shows_the_first_sentence_of_an_option_without_what_is_hydras(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("# Classify the digits.\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# What is\n# mine. And more.\nseed: 1\n")
    assert help_text(tmp_path).startswith("Classify the digits.\n\n")
    assert help_text(tmp_path).splitlines()[-2:] == ["experiment=", "  mine  What is mine"]


@needs_sweep  # for the experiment
def test_the_hyperparameters_name_the_experiment_and_the_debug_option() -> None:
    found = flat_hparams(config_of("experiment=paths", "debug=overfit"))
    assert (found["experiment"], found["debug"]) == ("paths", "overfit")


def test_jobs_that_differ_in_what_a_file_name_should_not_have_are_told_apart() -> None:
    jobs = ["data.path=a/b", "data.path=a_b", "data.path=a b", "data.path=a:b", "data.path=a_b."]
    labels = {job_label([job]) for job in jobs}
    assert len(labels) == len(jobs)
    assert all(re.fullmatch(r"[\w.,=+-]+", label) for label in labels)
    assert job_label(["b=2", "a=1"]) == job_label(["a=1", "b=2"]) == "a=1,b=2"


def test_the_option_of_a_nested_group_is_a_hyperparameter_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/model/loss").mkdir()
    for name in ("mse", "mae"):
        (tmp_path / f"conf/model/loss/{name}.yaml").write_text(f"# @package model\nloss: {name}\n")
    config = load_config(tmp_path / "conf", ["+model/loss=mae"], tmp_path / "run")
    assert flat_hparams(config)["model/loss"] == flat_hparams(config)["model.loss"] == "mae"
    print_choices(config, Path("r"))
    assert " loss=mae  loss=mae" in capsys.readouterr().out

"""Bad input: one line that names the key, the rule and the value, before anything trains."""

import re
from pathlib import Path

import pytest
from conftest import config_of, options
from hydra.errors import HydraException

from descent.config.help import help_text
from descent.config.hparams import flat_hparams
from descent.config.messages import one_line
from descent.errors import UserError
from descent.run.run_dirs import job_label

BAD = [
    (
        "optimizer=foo",
        "optimizer must be one of adadelta, adagrad, adam, adamax, adamw, asgd, lbfgs, momentum, nadam, "
        "nesterov, radam, rmsprop, rprop, sgd, got 'foo'",
    ),
    ("optimzer=adam", "optimzer is not a key: did you mean optimizer?"),
    ("batch.sze=3", "batch.sze is not a key: did you mean batch.size?"),
    ("+batch.sze=3", "batch.sze is not a key: did you mean batch.size?"),
    (
        "optimizer.lrr=1",
        "optimizer.lrr is not set in this config: did you mean optimizer.lr? +optimizer.lrr=... would pass it"
        " to the class",
    ),
    (
        "+optimizer.lrr=1",
        "optimizer.lrr is not a key: optimizer=sgd takes lr, momentum, dampening, weight_decay, nesterov, "
        "maximize, foreach, differentiable, fused",
    ),
    ("+scheduler.gama=1", "scheduler must be empty, or have a _target_, got {'gama': 1}"),
    ("optimizer.lr=abc", "optimizer.lr must be a number greater than 0 and below 1e30, got 'abc'"),
    ("optimizer.lr=0", "optimizer.lr must be a number greater than 0 and below 1e30, got 0"),
    ("optimizer.lr=nan", "optimizer.lr must be a number greater than 0 and below 1e30, got nan"),
    ("optimizer.lr=inf", "optimizer.lr must be a number greater than 0 and below 1e30, got inf"),
    ("optimizer.lr=null", "optimizer.lr must be a number greater than 0 and below 1e30, got null"),
    ("+optimizer.momentum=-1", "optimizer.momentum must be a number from 0 up to 1e30, got -1"),
    ("optimizer._target_=os.system", "optimizer._target_ must be a class in torch.optim or descent, got 'os.system'"),
    ("optimizer._target_=torch.optim.SGDD", "optimizer._target_ must be a class that exists, got 'torch.optim.SGDD'"),
    ("optimizer=null", "an option of a config group must be a name: --help lists the groups and their options"),
    ("optimizer=[sgd,adam]", "optimizer must be one option: -m optimizer=... runs several, one after another"),
    ("batch.size=-1", "batch.size must be a positive integer or null (the whole training set), got -1"),
    ("batch.size=0", "batch.size must be a positive integer or null (the whole training set), got 0"),
    ("batch.size=1.5", "batch.size must be a positive integer or null (the whole training set), got 1.5"),
    ("batch.size=true", "batch.size must be a positive integer or null (the whole training set), got true"),
    ("batch.shuffle=1", "batch.shuffle must be true or false, got 1"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs must be a positive integer, got 1.5"),
    ("trainer.max_epochs=0", "trainer.max_epochs must be a positive integer, got 0"),
    ("trainer.max_steps=0", "trainer.max_steps must be a positive integer or null (no limit), got 0"),
    ("trainer.precision=7", "trainer.precision must be one of 32-true, 64-true, 16-mixed, bf16-mixed, got 7"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be a positive integer, got 0"),
    ("seed=-1", "seed must be an integer from 0 to 4294967295, got -1"),
    ("seed=4294967296", "seed must be an integer from 0 to 4294967295, got 4294967296"),
    ("seed=null", "seed must be an integer from 0 to 4294967295, got null"),
    (
        "clip.gradient_clip_val=1",
        "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both), "
        "got 1 and null",
    ),
    (
        "clip.gradient_clip_algorithm=norm",
        "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both), "
        "got null and 'norm'",
    ),
    (
        "clip.gradient_clip_val=-1",
        "clip.gradient_clip_val must be a number greater than 0 and below 1e30 or null (no clipping), got -1",
    ),
    ("data.val_fraction=1", "data.val_fraction must be a number from 0 up to, not including, 1, got 1"),
    ("data.val_fraction=-0.1", "data.val_fraction must be a number from 0 up to, not including, 1, got -0.1"),
    (
        "data.val_fraction=0.95",
        "data.val_fraction + data.test_fraction must be below 1, to leave training rows, got 1.05",
    ),
    ("data.num_samples=0", "data.num_samples must be a positive integer, got 0"),
    ("data.condition_number=0.5", "data.condition_number must be a number from 1 up to 1e30, got 0.5"),
    ("data.outlier_fraction=2", "data.outlier_fraction must be a number from 0 to 1, got 2"),
    ("data.path=x", "data.path is not a key of the data option chosen here: --cfg job prints those that are"),
    ("data=table", "data.path must be given: data.path=..."),
    ("data.source=web", "data.source must be one of synthetic, rows, diabetes, table, got 'web'"),
    (
        "predict_at=[[1],[1,2]]",
        "predict_at must be a list of rows, each a list of numbers, all of one length, got [[1], [1, 2]]",
    ),
    ("predict_at=4", "predict_at must be a list of rows, each a list of numbers, all of one length, got 4"),
    (
        "model.init_weight=abc",
        "model.init_weight must be a number below 1e30 in size or null (torch's default initialisation), got 'abc'",
    ),
    ("stopping.patience=0", "stopping.patience must be a positive integer or null (off), got 0"),
    (
        "checkpoint.every_seconds=-1",
        "checkpoint.every_seconds must be a number from 0 up to 1e30 or null (no such interval), got -1",
    ),
    (
        "name=../x",
        "name must be letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 "
        "or null (named after the overrides), got '../x'",
    ),
    (
        "name=a/b",
        "name must be letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 "
        "or null (named after the overrides), got 'a/b'",
    ),
    ("~batch", "batch is missing"),
    ("batch=7", "an option of a config group must be a name: --help lists the groups and their options"),
    (
        "+foo=1",
        "foo is not a key: the keys here are seed, name, predict_at, figures, data, model, optimizer, "
        "scheduler, batch, clip, stopping, trainer, checkpoint",
    ),
    (
        "foo",
        "Error parsing override 'foo' missing EQUAL at '<EOF>' See "
        "https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details",
    ),
    ("x/y=z", "x/y is not a key: --cfg job prints all keys"),
    (
        "+optimizer=foo",
        "optimizer must be one of adadelta, adagrad, adam, adamax, adamw, asgd, lbfgs, momentum, nadam, "
        "nesterov, radam, rmsprop, rprop, sgd, got 'foo'",
    ),
    ("+data.num_sample=3", "data.num_sample is not a key: did you mean data.num_samples?"),
    ("data.zzzzz=3", "data.zzzzz is not a key: --cfg job prints all keys"),
    ("optimizer.lr=${nope}", "Interpolation key 'nope' not found full_key: optimizer.lr"),
    ("+batch.qqqqqqq=1", "batch.qqqqqqq is not a key: the keys here are batch.size, batch.shuffle"),
    ("debug.x=1", "debug.x is not a key: did you mean debug?"),
    ("data=null", "an option of a config group must be a name: --help lists the groups and their options"),
    (
        "predict_at=[1",
        "no viable alternative at input '[1' See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details",
    ),
    ("batch=full/x", "batch must be one of full, mini, single, got 'full/x'"),
    ("hydra/launcher=foo", "hydra/launcher must be one of basic, resuming, got 'foo'"),
    ("stopping.diverged_above=0", "stopping.diverged_above must be a number greater than 0 and below 1e30, got 0"),
    (
        "scheduler.step_siz=1",
        "scheduler.step_siz is not set in this config: did you mean scheduler.step_size? "
        "+scheduler.step_siz=... would pass it to the class",
    ),
    (
        "optimizer.qqqqq=1",
        "optimizer.qqqqq is not set in this config: did you mean optimizer.t0? +optimizer.qqqqq=... would "
        "pass it to the class",
    ),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override for override, _ in BAD])
def test_bad_input_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises((UserError, HydraException, ValueError)) as raised:
        config_of(override)
    assert one_line(raised.value) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=lbfgs", "batch=single"], r"batch.size must be null \(batch=full\) with optimizer=lbfgs"),
        (["model.bias=false", "model.init_bias=1"], "model.init_bias must be null when model.bias is false, got 1"),
        (["scheduler=step", "+scheduler.gama=1"], "scheduler.gama is not a key: scheduler=step takes step_size"),
        (["scheduler=step", "scheduler.interval=day"], "scheduler.interval must be one of epoch, step, got 'day'"),
        (["scheduler=step", "~scheduler.step_size"], "scheduler.step_size is missing: scheduler=step needs it"),
        (["data=line", "data.targets=[1]"], r"data.targets must be as many as data.inputs \(4\), got \[1\]"),
        (["data=table", "data.path=no.csv", "data.target=y"], "data.path must be a CSV or Parquet file, got 'no.csv'"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(*overrides)


def test_arguments_of_the_optimizer_class_may_be_added() -> None:
    assert config_of("+optimizer.momentum=0.5").optimizer["momentum"] == 0.5


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
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# What is\n# mine. And more.\nseed: 1\n")
    assert help_text(tmp_path).splitlines()[-2:] == ["experiment=", "  mine  What is mine."]


def test_the_hyperparameters_name_the_experiment_and_the_debug_option() -> None:
    found = flat_hparams(config_of("experiment=two_features", "debug=overfit"))
    assert (found["experiment"], found["debug"]) == ("two_features", "overfit")


def test_jobs_that_differ_in_what_a_file_name_should_not_have_are_told_apart() -> None:
    jobs = ["data.path=a/b", "data.path=a_b", "data.path=a b", "data.path=a:b", "data.path=a_b."]
    labels = {job_label([job]) for job in jobs}
    assert len(labels) == len(jobs)
    assert all(re.fullmatch(r"[\w.,=+-]+", label) for label in labels)
    assert job_label(["b=2", "a=1"]) == job_label(["a=1", "b=2"]) == "a=1,b=2"

"""Tests whole messages for bad input: one line that names the key, the rule and the value, before training."""

import re

import pytest
from conftest import config_of, needs_sweep, options
from hydra.errors import HydraException

from descent.config.messages import one_line
from descent.config.schema import STRATEGIES
from descent.errors import UserError

OPTIMIZERS = ", ".join(options("optimizer"))
SGD = "lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused"
SYNTHETIC = (
    "num_samples, num_features, noise_std, condition_number, outlier_fraction, val_fraction, "
    "test_fraction, standardize, seed, max_rows, batch_size, shuffle, bias"
)
ALLOWED = "a class in torch, lightning, torchmetrics, descent, regression (the key packages lists them)"
A_NAME = (
    "letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 bytes or null "
    "(named after the overrides)"
)
BATCH_SIZE = "a positive integer or null (the whole training set)"
ONE_NAME = "an option of a config group must be a name: --help lists the groups and their options"
ANY_NUMBER = "a number between -1e30 and 1e30"
SEED = "an integer from 0 to 4294967295"
TOGETHER = "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both)"
BAD = [
    ("optimizer=foo", f"optimizer must be one of {OPTIMIZERS}, got 'foo'"),
    ("optimzer=adam", "optimzer is not a key: did you mean optimizer?"),
    ("batch.sze=3", "batch.sze is not a key: did you mean batch.size?"),
    ("+batch.sze=3", "batch.sze is not a key: did you mean batch.size?"),
    ("optimizer.lrr=1", "optimizer.lrr is not a key: did you mean optimizer.lr?"),
    ("optimizer.momentum=1", "optimizer.momentum is not set in this config: +optimizer.momentum=... sets it"),
    ("optimizer.betas=1", f"optimizer.betas is not a key: torch.optim.SGD takes {SGD}"),
    ("scheduler.gamma=1", "scheduler.gamma is not a key of the scheduler option chosen here, which has none"),
    ("+optimizer.lrr=1", f"optimizer.lrr is not a key: optimizer=sgd takes {SGD}; did you mean optimizer.lr?"),
    ("+scheduler.gama=1", "scheduler must be empty, or have a _target_, got {'gama': 1}"),
    ("optimizer.lr=abc", f"optimizer.lr must be {ANY_NUMBER}, got 'abc'"),
    ("+optimizer.nesterov=1", "optimizer.nesterov must be true or false, got 1"),
    ("optimizer.lr=nan", f"optimizer.lr must be {ANY_NUMBER}, got nan"),
    ("optimizer.lr=inf", f"optimizer.lr must be {ANY_NUMBER}, got inf"),
    ("optimizer.lr=null", f"optimizer.lr must be {ANY_NUMBER}, got null"),
    ("+optimizer.momentum=1e30", f"optimizer.momentum must be {ANY_NUMBER}, got 1e+30"),
    ("optimizer._target_=os.system", f"optimizer._target_ must be {ALLOWED}, got 'os.system'"),
    (
        "optimizer._target_=torch.optim.SGDD",
        "optimizer._target_ must be a class that exists, got 'torch.optim.SGDD': torch.optim has no SGDD; did you mean"
        " torch.optim.SGD?",
    ),
    ("callbacks=[none,plots]", "callbacks has no option 'plots': --help lists the groups and their options"),
    ("optimizer=", f"optimizer must be one of {OPTIMIZERS}, got ''"),
    (
        "hydra/hydra_logging=colorlog",
        "hydra/hydra_logging must be one of default, disabled, hydra_debug, none, got 'colorlog'",
    ),
    (
        "seed=${oc.env:NOPE}",
        "seed: KeyError raised while resolving interpolation: \"Environment variable 'NOPE' not found\"",
    ),
    ("seed=${seed}", "seed: Recursive interpolation detected"),
    (
        "optimizer._target_=torch.optim.Optimizer",
        "optimizer._target_ must be a class derived from torch.optim.Optimizer, got 'torch.optim.Optimizer'",
    ),
    (
        "data.path=~nosuchuser/x.csv",
        "data.path=~nosuchuser/x.csv: a value with spaces or special characters needs quotes, key='\"value\"'",
    ),
    (f"name={'x' * 5000}", f"name must be {A_NAME}, got '{'x' * 99} ... {'x' * 99}'"),
    ("optimizer=null", ONE_NAME),
    ("optimizer=[sgd,adam]", "optimizer must be one option: -m optimizer=... runs several, one after another"),
    ("batch.size=-1", f"batch.size must be {BATCH_SIZE}, got -1"),
    ("batch.size=0", f"batch.size must be {BATCH_SIZE}, got 0"),
    ("batch.size=1.5", f"batch.size must be {BATCH_SIZE}, got 1.5"),
    ("batch.size=true", f"batch.size must be {BATCH_SIZE}, got true"),
    ("batch.shuffle=1", "batch.shuffle must be true or false, got 1"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs must be a positive integer, got 1.5"),
    ("trainer.max_epochs=0", "trainer.max_epochs must be a positive integer, got 0"),
    (
        "trainer.accumulate_grad_batches=0",
        "trainer.accumulate_grad_batches must be a positive integer, got 0",
    ),
    ("trainer.max_steps=0", "trainer.max_steps must be a positive integer or null (no limit), got 0"),
    (
        "trainer.precision=7",
        "trainer.precision must be one of 64, 32, 16, transformer-engine, transformer-engine-float16, "
        "16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true, bf16 or null, got 7",
    ),
    ("trainer.accumulate_grad_batches=1.5", "trainer.accumulate_grad_batches must be an integer, got 1.5"),
    ("trainer.limit_train_batches=nan", f"trainer.limit_train_batches must be {ANY_NUMBER}, got nan"),
    ("trainer.inference_mode=1", "trainer.inference_mode must be true or false, got 1"),
    ("trainer.fast=1", "trainer.fast must be true or false, got 1"),
    ("+trainer.max_epoch=1", "trainer.max_epoch is not a key: did you mean trainer.max_epochs?"),
    ("+trainer.overfit_batch=1", "trainer.overfit_batch is not a key: did you mean trainer.overfit_batches?"),
    (
        "+trainer.arguments={}",
        "trainer.arguments is not a key: the keys here are trainer.accelerator, trainer.precision, "
        "trainer.max_epochs, trainer.max_steps, trainer.log_every_n_steps, trainer.check_val_every_n_epoch,"
        " trainer.deterministic, trainer.fast_dev_run, trainer.profiler, trainer.enable_progress_bar, "
        "trainer.fast, trainer.num_threads, trainer.devices, trainer.num_nodes, trainer.strategy, "
        "trainer.min_epochs, trainer.min_steps, trainer.limit_train_batches, "
        "trainer.limit_val_batches, trainer.limit_test_batches, trainer.limit_predict_batches, "
        "trainer.overfit_batches, trainer.val_check_interval, trainer.accumulate_grad_batches, "
        "trainer.benchmark, trainer.inference_mode, trainer.detect_anomaly, trainer.sync_batchnorm, "
        "trainer.reload_dataloaders_every_n_epochs, trainer.enable_autolog_hparams, trainer.model_registry",
    ),
    ("trainer.devices=0", "trainer.devices must be a positive integer or auto, got 0"),
    ("trainer.devices=[0,1]", "trainer.devices must be a positive integer or auto, got [0, 1]"),
    ("trainer.num_nodes=0", "trainer.num_nodes must be a positive integer, got 0"),
    ("trainer.strategy=fsdp", f"trainer.strategy must be {STRATEGIES}, got 'fsdp'"),
    ("+trainer.logger=true", "trainer.logger must not be set: logger=... chooses the logger"),
    (
        "+trainer.gradient_clip_val=1",
        "trainer.gradient_clip_val must not be set: set clip.gradient_clip_val instead",
    ),
    ("+trainer.max_time=1", "trainer.max_time must not be set: set stopping.max_seconds instead"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps must be a positive integer, got 0"),
    ("seed=-1", f"seed must be {SEED}, got -1"),
    ("seed=4294967296", f"seed must be {SEED}, got 4294967296"),
    ("seed=null", f"seed must be {SEED}, got null"),
    ("clip.gradient_clip_val=1", f"{TOGETHER}, got 1 and null"),
    ("clip.gradient_clip_algorithm=norm", f"{TOGETHER}, got null and 'norm'"),
    (
        "clip.gradient_clip_val=-1",
        "clip.gradient_clip_val must be a number greater than 0 and below 1e30 or null (no clipping), got -1",
    ),
    ("data.val_fraction=1", "data.val_fraction must be a number from 0 up to, not including, 1, got 1"),
    ("data.val_fraction=-0.1", "data.val_fraction must be a number from 0 up to, not including, 1, got -0.1"),
    ("data.num_samples=0", "data.num_samples must be a positive integer, got 0"),
    ("data.condition_number=0.5", "data.condition_number must be a number from 1 up to 1e30, got 0.5"),
    ("data.outlier_fraction=2", "data.outlier_fraction must be a number from 0 to 1, got 2"),
    ("data.path=x", f"data.path is not a key: regression.data.sources.SyntheticData takes {SYNTHETIC}"),
    ("data=table", "data.path must be given: data.path=..."),
    ("data.source=web", f"data.source is not a key: regression.data.sources.SyntheticData takes {SYNTHETIC}"),
    (
        "predict_at=[[1],[1,2]]",
        "predict_at must be a list of rows, each a list of numbers, all of one length, got [[1], [1, 2]]",
    ),
    ("predict_at=4", "predict_at must be a list of rows, each a list of numbers, all of one length, got 4"),
    (
        "model.init_weight=abc",
        f"model.init_weight must be {ANY_NUMBER} or null (torch's default initialisation), got 'abc'",
    ),
    ("stopping.patience=0", "stopping.patience must be a positive integer or null (off), got 0"),
    (
        "checkpoint.every_seconds=-1",
        "checkpoint.every_seconds must be a number from 0 up to 1e30 or null (no such interval), got -1",
    ),
    ("name=../x", f"name must be {A_NAME}, got '../x'"),
    ("name=a/b", f"name must be {A_NAME}, got 'a/b'"),
    ("~batch", "batch is missing"),
    ("monitor.mode=most", "monitor.mode must be one of min, max, got 'most'"),
    ("monitor.metric=", "monitor.metric must be a string, got ''"),
    ("+callbacks.mine=3", "callbacks.mine must be a _target_ and its arguments, got 3"),
    ("+callbacks.mine._target_=os.system", f"callbacks.mine._target_ must be {ALLOWED}, got 'os.system'"),
    (
        "+callbacks.mine._target_=torch.optim.SGD",
        "callbacks.mine._target_ must be a class derived from lightning.pytorch.Callback, got 'torch.optim.SGD'",
    ),
    (
        "+logger.mine._target_=lightning.pytorch.Trainer",
        "logger.mine._target_ must be a class derived from lightning.pytorch.loggers.Logger, got "
        "'lightning.pytorch.Trainer'",
    ),
    (
        "+logger={a: {_target_: lightning.pytorch.loggers.CSVLogger}}",
        "logger.a.save_dir is missing: lightning.pytorch.loggers.CSVLogger needs it",
    ),
    ("batch=7", ONE_NAME),
    (
        "+foo=1",
        "foo is not a key: the keys here are seed, name, packages, monitor, data, model, optimizer, "
        "scheduler, batch, clip, stopping, trainer, checkpoint, callbacks, logger, predict_at, figures; "
        "a key of your own needs a value in conf/train.yaml",
    ),
    (
        "foo",
        "Error parsing override 'foo' missing EQUAL at '<EOF>' See "
        "https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details",
    ),
    ("x/y=z", "x/y is not a key: --cfg job prints all keys"),
    ("+optimizer=foo", f"optimizer must be one of {OPTIMIZERS}, got 'foo'"),
    (
        "+data.num_sample=3",
        f"data.num_sample is not a key: data=synthetic takes {SYNTHETIC}; did you mean data.num_samples?",
    ),
    ("data.zzzzz=3", f"data.zzzzz is not a key: regression.data.sources.SyntheticData takes {SYNTHETIC}"),
    ("optimizer.lr=${nope}", "optimizer.lr: Interpolation key 'nope' not found"),
    ("+batch.qqqqqqq=1", "batch.qqqqqqq is not a key: the keys here are batch.size, batch.shuffle"),
    ("debug.x=1", "debug has no such option or key: debug=... chooses a file of conf/debug/"),
    ("data=null", ONE_NAME),
    (
        "predict_at=[1",
        "no viable alternative at input '[1' See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details",
    ),
    ("batch=full/x", f"batch must be one of {', '.join(options('batch'))}, got 'full/x'"),
    ("stopping.diverged_above=0", "stopping.diverged_above must be a number greater than 0 and below 1e30, got 0"),
    ("scheduler.step_siz=1", "scheduler.step_siz is not a key of the scheduler option chosen here, which has none"),
    ("optimizer.qqqqq=1", f"optimizer.qqqqq is not a key: torch.optim.SGD takes {SGD}"),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override[:60] for override, _ in BAD])
def test_bad_input_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises((UserError, HydraException, ValueError)) as raised:
        config_of(override)
    assert one_line(raised.value) == message


@needs_sweep
def test_a_launcher_whose_plugin_is_not_installed_names_the_extra() -> None:
    options = "Available options in 'hydra/launcher':\n\tbasic\n\tresuming\nConfig search path:\n\tprovider=hydra"
    error = HydraException(f"Could not find 'hydra/launcher/submitit_local'\n\n{options}")
    assert one_line(error) == "launcher=submitit_local needs a plugin: pip install -c constraints.txt -e '.[submitit]'"


@needs_sweep
def test_a_launcher_that_does_not_exist_is_one_line_with_the_choices() -> None:
    with pytest.raises(HydraException) as raised:
        config_of("hydra/launcher=foo")
    assert re.fullmatch("hydra/launcher must be one of basic, .*resuming.*, got 'foo'", one_line(raised.value))

"""Tests the console's error messages and --help in full."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF
from hydra.errors import HydraException
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch._utils import ExceptionWrapper

from descent.config.help import first_sentence, help_text
from descent.config.loader import Loader
from descent.config.messages import one_line, unknown
from descent.errors import UserError


def raised_by(error: Exception, cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    error.__cause__, error.__context__ = cause, context
    return error


LISTS = "--help lists the groups and their options"
QUOTES = "a value with spaces or special characters needs quotes, key='\"value\"'"
MINE = UserError("  seed must\n   be 1 ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MINE, "seed must be 1"),
        (raised_by(HydraException("Error in a"), cause=MINE), "seed must be 1"),
        (raised_by(HydraException("Error in a"), context=MINE), "seed must be 1"),
        (raised_by(ValueError("a"), cause=KeyError("b"), context=MINE), "ValueError: a"),
        (raised_by(ValueError("a"), cause=raised_by(KeyError("b"), context=MINE)), "seed must be 1"),
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError("a: b object_type=dict"), "ValueError: a: b object_type=dict"),
        (HydraException("a\nobject_type=dict"), "a"),
        (OmegaConfBaseException("a\n    object_type=dict"), "a"),
        (
            HydraException("Could not find 'a/b'\n\nAvailable options in 'a':\n\tc\n\td\nConfig search path:"),
            "a must be one of c, d, got 'b'",
        ),
        (HydraException("Could not find 'a-b/c'\nConfig search path:"), f"a-b has no option 'c': {LISTS}"),
        (
            HydraException(
                "Error in call to target 'regression.model.LinearRegression': TypeError(\"__init__() got an unexpected"
                " keyword argument 'optimzer'\")\nfull_key: hydra.sweeper"
            ),
            "hydra.sweeper.optimzer is not a key: did you mean optimizer?",
        ),
        (
            HydraException("Could not override 'optimzer'.\nNo match."),
            "optimzer is not a key: --cfg job prints all keys",
        ),
        (
            ValueError("Config group override must be a string"),
            f"an option of a config group must be a name: {LISTS}",
        ),
        (
            HydraException("mismatched input 'x' expecting <EOF>\nSee https://hydra.cc for details"),
            f"mismatched input 'x' expecting <EOF>: {QUOTES}",
        ),
        (HydraException("LexerNoViableAltException: a"), f"a: {QUOTES}"),
        (HydraException("LexerNoViableAltException: x=~ ^"), f"x=~: {QUOTES}"),
        (
            ValueError("Automatic gradient clipping is not supported for manual optimization. Remove ..."),
            "clip must be none with manual optimization, where training_step clips by self.clip_gradients",
        ),
        (RecursionError("maximum depth"), "a value is nested too deeply"),
        (HydraException("Error: RecursionError: maximum depth"), "a value is nested too deeply"),
        (OmegaConfBaseException("a b\n    full_key: c.d\n    object_type=dict"), "c.d: a b"),
        (ValueError("a full_key: c"), "ValueError: a full_key: c"),
        (RuntimeError("a" * 501), f"RuntimeError: {'a' * 500} ..."),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_an_error_is_shortened_to_its_useful_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (
            "optimizer.zzzz",
            "optimizer.zzzz is not a key: torch.optim.LBFGS takes lr, max_iter, max_eval, tolerance_grad, ",
        ),
        ("optimizer.lrr", "optimizer.lrr is not a key: did you mean optimizer.lr?"),
        ("optimizer.max_itr", "optimizer.max_itr is not a key: did you mean optimizer.max_iter?"),
        ("optimizer.max_iter", "optimizer.max_iter is not set in this config: +optimizer.max_iter=... sets it"),
        ("optimizer.params", "optimizer.params is not a key: torch.optim.LBFGS takes lr, max_iter,"),
        ("data.path", "data.path is not a key: own_of_test.Data takes num_samples, seed"),
        ("data.num_sample", "data.num_sample is not a key: did you mean data.num_samples?"),
        ("scheduler.gamma", "scheduler.gamma is not a key of the scheduler option chosen here, which has none"),
        ("batch.sise", "batch.sise is not a key: did you mean batch.size?"),
        ("batch.zzzz", "batch.zzzz is not a key of the batch option chosen here, which has size, shuffle"),
        ("data.optimizer.lr", "data.optimizer.lr is not a key: set optimizer.lr, if data.optimizer is ${optimizer}"),
        ("experimnt", "experimnt is not a key: did you mean experiment?"),
        ("debug.x", "debug has no such option or key: debug=... chooses a file of conf/debug/"),
        ("x", "x is not a key: --cfg job prints all keys"),
        (
            "trainer.num_sanity_val_steps",
            "trainer.num_sanity_val_steps must not be set: trainer.fast_dev_run=true tries validation before",
        ),
        ("clip.a", "clip.a is not a key of the clip option chosen here, which has _target_"),  # not a class
        ("stopping.a", "stopping.a is not a key of the stopping option chosen here, which has _target_"),
        ("trainer.max_epoch", "trainer.max_epoch is not a key: did you mean trainer.max_epochs?"),
    ],
)
def test_the_error_of_an_unknown_key_suggests_the_nearest(
    key: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_of_test.py").write_text("class Data:\n    def __init__(self, num_samples, seed=0): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = OmegaConf.create(
        {
            "optimizer": {"_target_": "torch.optim.LBFGS", "lr": 1},
            "data": {"_target_": "own_of_test.Data", "num_samples": 1, "optimizer": "${optimizer}"},
            "scheduler": {},
            "batch": {"size": 1, "shuffle": True},
            "trainer": {"max_epochs": 1},
            "clip": {"_target_": "torch.hub.load"},
            "stopping": {"_target_": "nowhere_of_test.A"},
        }
    )
    OmegaConf.set_struct(config, True)  # like Hydra
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.update(config, key, 1)
    assert unknown(key, raised.value).startswith(line)


HELP = """\
Train a linear regression by gradient descent.

  python scripts/train.py optimizer=adam batch=full     choose options (below)
  python scripts/train.py optimizer.lr=0.1 seed=1       set any key of the config
  python scripts/train.py -m optimizer=sgd,adam         a sweep: every combination
  python scripts/train.py --cfg job [...]               print the config, run nothing
  python scripts/train.py --hydra-help                  further flags

Config groups and their options, * the defaults:

a=
  longer  The name is short, and the
          text is not
  s       Short
b=
  one    Größe, of a... which it is
         one
* three  Before the line
  two
c=
"""


def test_help_shows_the_first_sentence_of_each_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "36")
    files = {
        "b/one.yaml": "# Größe, of a...\n# which it is one. Then more.\n",
        "b/two.yaml": "seed: 1 # no comment\n",
        "b/three.yaml": "# Before the line\n#\n# and not this\n",
        "a/s.yaml": "# @package _global_\n# Short.\n# More.\n",
        "a/longer.yaml": "# The name is short, and the text is not\nseed: 1\n# not this\n",
        "a/no.txt": "# no option\n",
        "train.yaml": "# Train a linear regression by gradient descent. More.\ndefaults:\n  - b: three\n  - a: null\n",
    }
    (tmp_path / "c").mkdir()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [line.rstrip() for line in help_text(tmp_path).splitlines()] == HELP.splitlines()
    assert first_sentence(tmp_path / "b/one.yaml") == "Größe, of a... which it is one."


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ("callback", "callback is not a config group: did you mean callbacks?"),
        ("zzz", "zzz is not a config group: --help lists them"),
        ("callbacks", f"callbacks has no option 'mine': {LISTS}"),
    ],
)
def test_a_group_in_defaults_that_does_not_exist_is_named(
    group: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loader, "conf", CONF, raising=False)
    assert one_line(HydraException(f"Could not load '{group}/mine'.")) == line


@pytest.mark.parametrize(("key", "hint"), [("moniter", ": did you mean moniter?"), ("other", "")])
def test_an_interpolation_of_a_missing_key_names_a_similar_one(key: str, hint: str) -> None:
    config = OmegaConf.create({key: {"metric": "val/loss"}, "stopping": {"monitor": "${monitor.metric}"}})
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.to_container(config, resolve=True)
    assert one_line(raised.value) == f"stopping.monitor: Interpolation key 'monitor.metric' not found{hint}"


class OwnData(LightningDataModule):
    def train_dataloader(self) -> None:
        torch.utils.data.DataLoader([1], batch_size=0)


class OwnModel(LightningModule):
    def training_step(self, batch: None, batch_idx: int) -> None:
        torch.nn.Linear(1, 1)(torch.ones(2))

    def validation_step(self, batch: None, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def test_step(self, batch: None, batch_idx: int) -> None:
        print(self.trainer)


class OwnCallback(Callback):
    def on_fit_start(self, trainer: None, pl_module: None) -> None:  # type: ignore[override]
        raise KeyError("mine")


class OwnRows(torch.utils.data.Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise OSError("no such row")


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: OwnData().train_dataloader(), "ValueError in OwnData.train_dataloader: batch_size should be"),
        (lambda: OwnModel().training_step(None, 0), "RuntimeError in OwnModel.training_step: mat1 and mat2"),
        (lambda: OwnModel().validation_step(None, 0), "RuntimeError in OwnModel.training_step: mat1 and mat2"),
        (lambda: OwnModel().test_step(None, 0), "RuntimeError in OwnModel.test_step: OwnModel is not attached to"),
        (lambda: OwnCallback().on_fit_start(None, None), "KeyError in OwnCallback.on_fit_start: 'mine'"),
        (lambda: next(iter(torch.utils.data.DataLoader(OwnRows(), sampler=[0]))), "OSError in OwnRows.__getitem__: no"),
        (lambda: OwnModel().forward(), "NotImplementedError: Module [OwnModel]"),  # Lightning's own method
        (lambda: torch.ones(2) @ torch.ones(3), "RuntimeError: "),
    ],
    ids=["data", "model", "a call within", "Lightning's property", "callback", "dataset", "inherited", "neither"],
)
def test_an_error_from_a_projects_class_names_its_method(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(Exception) as raised:
        call()
    assert one_line(raised.value).startswith(line)


class BadRowError(ValueError):
    def __init__(self, row: int, column: str) -> None:  # torch cannot rebuild it from the message alone
        super().__init__(f"bad row {row}\n  in {column}")


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        try:
            raise TypeError("the first")
        except TypeError:
            raise self.error  # noqa: B904  # so that the worker's traceback has two errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad row 700"), "ValueError: bad row 700 (in a DataLoader worker)"),
        (KeyError("tokens"), "KeyError: 'tokens' (in a DataLoader worker)"),
        (ValueError(), "ValueError (in a DataLoader worker)"),
        (BadRowError(7, "x"), "BadRowError: bad row 7 in x (in a DataLoader worker)"),
        (UserError("rows.csv must have y"), "rows.csv must have y (in a DataLoader worker)"),
    ],
    ids=["plain", "key", "empty", "own", "a user's"],
)
def test_an_error_in_a_worker_is_shortened_to_its_cause(error: Exception, line: str) -> None:
    try:
        raise error
    except Exception:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")  # what a worker sends
    with pytest.raises(Exception) as raised:
        sent.reraise()
    assert "Original Traceback" in str(raised.value)
    assert one_line(raised.value) == line


def test_a_row_that_raises_in_a_worker_keeps_its_message() -> None:
    error, line = ValueError("bad row 700"), "ValueError: bad row 700 (in a DataLoader worker)"
    with pytest.raises(Exception) as raised:
        next(iter(torch.utils.data.DataLoader(Rows(error), num_workers=1)))
    assert "Original Traceback" in str(raised.value)
    assert one_line(raised.value) == line


def test_a_syntax_error_is_named_with_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nclass Model(:\n")
    with pytest.raises(SyntaxError) as raised:
        runpy.run_path(str(tmp_path / "model.py"))
    assert one_line(raised.value) == f"SyntaxError in {tmp_path / 'model.py'}: invalid syntax (model.py, line 2)"

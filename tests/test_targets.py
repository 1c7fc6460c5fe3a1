"""Tests which classes a ``_target_`` may name and which arguments they take, read from their source."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Run
from torch.optim import Optimizer

from descent.config.targets import check_target
from descent.errors import UserError
from descent.training.build import build_optimizer, load_class

PACKAGES = ("torch", "lightning", "targets_of_test")


def check(target: Any, path: str = "optimizer", supplied: int = 1, **arguments: Any) -> dict[str, Any]:
    return check_target({"_target_": target, **arguments}, path, PACKAGES, supplied)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package, which a check must not import."""
    package = tmp_path / "targets_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("from subprocess import Popen\nfrom .models import Net\nraise SystemExit(7)\n")
    (package / "sizes.py").write_text("from typing import Literal as L\nSize = L['small', 'large']\n")
    (package / "models.py").write_text(
        "import typing as t\n"
        "from pathlib import Path\n"
        "from typing import Annotated, Optional, TYPE_CHECKING\n"
        "import torch\n"
        "from pydantic import AfterValidator, Field, PositiveInt\n"
        "from annotated_types import Gt, Lt\n"
        "from descent.config.types import Fraction\n"
        "from lightning.pytorch import LightningModule\n"
        "if TYPE_CHECKING:\n    from .sizes import Size\n"
        "Rate = Annotated[float, Gt(0), Lt(1)]\n"
        "def even(value):\n    assert value % 2 == 0, 'it is odd'\n    return value\n"
        "class Base(LightningModule):\n"
        "    def __init__(self, width: int, size: 'Size' = 'small', rate: Rate = 0.5, dropout: Fraction = 0.0,\n"
        "                 table: Optional[Path] = None, depth: Annotated[int, Field(ge=2)] = 2, bias: bool = True,\n"
        "                 names: t.Sequence[str] = (), layers: PositiveInt = 1, act: torch.nn.Module | None = None,\n"
        "                 blocks: list[torch.nn.Module] = (),\n"
        "                 heads_of: t.Mapping[str, t.Optional['torch.nn.ReLU']] = {},\n"
        "                 shaped: Shape[torch.Tensor, 'batch dim'] = None,\n"
        "                 either: torch.nn.Module | dict[str, t.Any] | None = None,\n"
        "                 kind: type[torch.nn.Module] = None,\n"
        "                 optimizer: torch.optim.Optimizer | None = None,\n"
        "                 scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,\n"
        "                 scale: float = None, pair: tuple[int, int] = (1, 1), extra: t.Dict[str, int] = {},\n"
        "                 heads: Annotated[int, AfterValidator(even)] = 2, part: t.Any = None):\n"
        "        super().__init__()\n"
        "class Net(Base):\n    pass\n"
        "class Open(Base):\n    def __init__(self, *, width: int, **more):\n        super().__init__(width, **more)\n"
        "class NotAModel:\n    pass\n"
        "def function():\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "os.system",
            r"must be a class in torch, lightning, targets_of_test \(the key packages lists them\), got 'os.system'",
        ),
        ("torchx.optim.SGD", "must be a class in torch, lightning, targets_of_test"),
        ("torch", "must be a class in torch, lightning, targets_of_test"),
        ("torch.optim.SGD()", "must be a class in torch, lightning, targets_of_test"),
        (["torch.optim.SGD"], "must be a class in torch, lightning, targets_of_test"),
        ("torch.os.system", "must be a class that exists, got 'torch.os.system': there is no module torch.os"),
        (
            "torch.optim.SGDD",
            r"must be a class that exists, .*: torch.optim has no SGDD; did you mean torch.optim.SGD\?",
        ),
        ("torch.nowhere.SGD", "must be a class that exists, got 'torch.nowhere.SGD': there is no module torch.nowhere"),
        ("torch.hub.load", "must be a class, got 'torch.hub.load'"),
        ("torch.nn.Linear", "must be a class derived from torch.optim.Optimizer, got 'torch.nn.Linear'"),
        ("torch.optim.Optimizer", "must be a class derived from torch.optim.Optimizer, got 'torch.optim.Optimizer'"),
        ("torch.optim.lr_scheduler.StepLR", "must be a class derived from torch.optim.Optimizer"),
        (
            "targets_of_test.Popen",
            r"must be a class in torch, lightning, targets_of_test \(the key packages lists them\), got 'subprocess\.",
        ),
        ("targets_of_test.models.function", "must be a class, got 'targets_of_test.models.function'"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_target_must_be_a_class_of_its_kind_in_the_packages(target: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^optimizer\._target_ {message}"):
        check(target)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "model.width is missing: targets_of_test.Net needs it"),
        ({"width": 1.5}, "model.width must be an integer, got 1.5"),
        ({"width": True}, "model.width must be an integer, got true"),
        ({"width": "3"}, "model.width must be an integer, got '3'"),
        ({"width": 3, "size": "huge"}, "model.size must be one of small, large, got 'huge'"),
        (
            {"width": 3, "rate": 1},
            "model.rate must be a number between -1e30 and 1e30 greater than 0 and below 1, got 1",
        ),
        ({"width": 3, "dropout": 2}, "model.dropout must be a number from 0 to 1, got 2"),
        ({"width": 3, "depth": 1}, "model.depth must be an integer from 2, got 1"),
        ({"width": 3, "layers": True}, "model.layers must be an integer greater than 0, got true"),
        ({"width": 3, "bias": 1}, "model.bias must be true or false, got 1"),
        ({"width": 3, "names": [1]}, r"model.names must be a list, each a string, got \[1\]"),
        ({"width": 3, "pair": [1]}, r"model.pair must be 2 values, each an integer, got \[1\]"),
        ({"width": 3, "extra": {"a": "b"}}, "model.extra must be a group of keys, got {'a': 'b'}"),
        ({"width": 3, "scale": "a"}, "model.scale must be a number between -1e30 and 1e30, got 'a'"),
        ({"width": 3, "act": [float("nan")]}, "model.act must be a number between -1e30 and 1e30, got nan"),
        ({"width": 3, "act": {"a": {"_target_": "os.system"}}}, "each _target_ in model must be a class in torch,"),
        (
            {"width": 3, "act": {"_target_": "torch.nn.ReLU"}},
            "model.act must be annotated as a dict, got torch.nn.Module | None: a nested _target_ is not built for"
            r' the class; build it by build\(act, "model.act", torch.nn.Module\) from descent.training.build$',
        ),
        (
            {"width": 3, "blocks": [1, {"_target_": "torch.nn.ReLU"}]},
            r"model.blocks must be annotated as a list of dicts, got list\[torch.nn.Module\]: a nested _target_ is"
            r' not built for the class; build it by build\(each, "model.blocks", torch.nn.Module\)',
        ),
        (
            {"width": 3, "heads_of": {"a": {"_target_": "torch.nn.ReLU"}}},
            r"model.heads_of must be annotated as a dict of dicts, .* build\(each, \"model.heads_of\", torch.nn.ReLU\)",
        ),
        (
            {"width": 3, "optimizer": {"_target_": "torch.optim.SGD"}},
            r"model.optimizer must be annotated as a dict, got torch.optim.Optimizer \| None: a nested _target_ is not"
            r" built for the class; build it by build_optimizer\(optimizer, self.parameters\(\)\) from",
        ),
        (
            {"width": 3, "scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR"}},
            r"model.scheduler must be annotated as a dict, got torch.optim.lr_scheduler.LRScheduler \| None: .*;"
            r" build it by build_scheduler\(scheduler, optimizer, self.trainer\) from",
        ),
        ({"width": 3, "heads": 1.5}, "model.heads must be an integer, got 1.5"),
        (
            {"width": 3, "with": 3},
            "model.with is not a key: targets_of_test.Net takes width, .*; did you mean model.width?",
        ),
        ({"width": 3, 3: 3}, "model.3 is not a key"),
    ],
)
def test_arguments_are_checked_against_the_classs_annotations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        check_target({"_target_": "targets_of_test.Net", **arguments}, "model", PACKAGES)


@pytest.mark.usefixtures("mine")
def test_allowed_values_are_not_changed() -> None:
    arguments: dict[str, Any] = {
        **{"width": 3, "size": "large", "rate": 0.25, "dropout": 1, "depth": 2, "bias": False, "scale": None},
        **{"names": ["a"], "layers": 2, "part": {"_target_": "torch.nn.ReLU"}, "pair": [1, 2], "extra": {"a": 1}},
        **{
            "either": {"_target_": "torch.nn.ReLU"},
            "kind": "torch.nn.ReLU",
            "heads_of": {},
            "blocks": [],
            "shaped": [1],
        },
    }
    assert check("targets_of_test.Net", "model", 0, **arguments) == {"_target_": "targets_of_test.Net", **arguments}
    assert check("targets_of_test.models.Open", "model", 0, width=3, anything=[1])["anything"] == [1]
    with pytest.raises(UserError, match=r"must be a class derived from lightning.pytorch.LightningModule"):
        check("targets_of_test.models.NotAModel", "model", 0)


@pytest.mark.usefixtures("mine")
def test_a_relative_path_starts_at_the_given_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(path: str) -> Any:
        spec = {"_target_": "targets_of_test.Net", "width": 1, "table": path}
        return check_target(spec, "model", PACKAGES, cwd=tmp_path)["table"]

    monkeypatch.setenv("HOME", "/home/me")
    assert table("rows.csv") == str(tmp_path / "rows.csv")
    assert table("/rows.csv") == "/rows.csv"
    assert table("~/rows.csv") == "/home/me/rows.csv"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("torch.optim.Adam", {"betas": [0.9, 1], "lr": 1, "capturable": True, "foreach": None}),
        ("torch.optim.Adafactor", {"eps": [None, 0.001]}),
        ("torch.optim.LBFGS", {"line_search_fn": "strong_wolfe", "max_eval": None}),
        ("torch.optim._adafactor.Adafactor", {}),
    ],
)
def test_arguments_that_torch_accepts_are_accepted(target: str, arguments: dict[str, Any]) -> None:
    assert check(target, **arguments) == {"_target_": target, **arguments}


def test_an_argument_that_the_caller_supplies_is_not_a_key() -> None:
    with pytest.raises(UserError, match=r"optimizer.params is not a key"):
        check("torch.optim.SGD", params=[])


def test_a_class_is_found_by_a_relative_re_export() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    target = "schedulefree.SGDScheduleFree"
    assert schedulefree.SGDScheduleFree.__module__ == "schedulefree.sgd_schedulefree"
    assert check_target({"_target_": target, "lr": 1}, "optimizer", ["schedulefree"], 1)["lr"] == 1
    with pytest.raises(UserError, match=r"warmup_steps must be an integer, got 0.5"):
        check_target({"_target_": target, "warmup_steps": 0.5}, "optimizer", ["schedulefree"], 1)


def test_a_check_does_not_import_torch_or_lightning() -> None:
    code = (
        "import sys; from descent.config.targets import check_target; "
        "check_target({'_target_': 'lightning.pytorch.callbacks.ModelCheckpoint'}, 'callbacks.a', ['lightning']); "
        "print({'torch', 'lightning', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=-1"], "optimizer: torch.optim.SGD refuses {'lr': -1}: Invalid learning rate: -1"),
        (["optimizer=adam", "+optimizer.betas=[0.9,1]"], "optimizer: torch.optim.Adam refuses .*beta"),
        (
            ["optimizer=adam", "+optimizer.capturable=true", "trainer.accelerator=cpu"],
            "optimizer.capturable must be false on this device: it is for CUDA graphs, got true",
        ),
        (["scheduler=cosine", "+scheduler.last_epoch=3"], "scheduler: torch.* refuses .*initial_lr"),
    ],
)
def test_a_value_that_the_class_refuses_is_a_one_line_error(overrides: list[str], message: str, run: Run) -> None:
    with pytest.raises(UserError, match=message) as raised:
        run(*overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "torch.hub.load",
            "optimizer._target_ must be a class derived from torch.optim.optimizer.Optimizer, got 'torch.h",
        ),
        ("torch.nn.Linear", "optimizer._target_ must be a class derived from"),
        ("torch.nn.Lin", "optimizer._target_ must be a class that can be imported, got 'torch.nn.Lin': "),
        ("targets_of_test.Net", "optimizer._target_ must be a class that can be imported, got 'targets_of_test.Net': "),
    ],
)
def test_the_kind_of_a_class_is_checked_before_it_is_called(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_class(target, Optimizer, "optimizer")
    with pytest.raises(UserError, match=message):
        build_optimizer({"_target_": target}, [])

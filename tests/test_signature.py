"""Tests reading a class's keywords from its source without importing it."""

from pathlib import Path

import pytest

from descent.config.optimizers import check_spec
from descent.config.source import find, signature_of
from descent.errors import UserError

SOURCE = """
from abc import *
from . import Neighbour
from .other import Beside
from mine_of_test.other import Original as Renamed, Other
from mine_of_test import Deep
def Function(params, lr): ...
class Whole:
    rate = 1
    def step(self, params, wrong): ...
    def __init__(self, params, a, /, b, c=1, *, d, e=2): ...
class Defaults:
    def __init__(self, params=None, lr=1): ...
class Keywords:
    def __init__(self, params, **rest): ...
class Bare: ...
class Below(Whole):
    x = 1
class PassesOn(Whole):
    def __init__(self, params, own, **rest):
        super().__init__(b=own, **rest)
class KeepsToItself(Whole):
    def __init__(self, params, **rest): ...
class OfNobodyKnown(torchless.Thing): ...
@dataclass
class Fields:
    width: int = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes a package and a module that raise when imported."""
    package = tmp_path / "mine_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("class Deep:\n    def __init__(self, params, depth): ...\nraise ValueError\n")
    (package / "here.py").write_text(SOURCE)
    (package / "other.py").write_text(
        "class Original:\n    def __init__(self, params, größe): ...\nOther = 1\n", "utf-8"
    )
    (tmp_path / "single_of_test.py").write_text("class Bare: ...\nraise ValueError\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def read(target: str) -> tuple[list[str], list[str], bool] | None:
    """Returns a class's arguments, its required ones, and whether it takes any other keyword."""
    found = find(target)
    assert found is not None
    signature = signature_of(found)
    if signature is None:
        return None
    needed = [name for name, argument in signature.arguments.items() if argument.required]
    return [*signature.arguments], needed, signature.any_key


@pytest.mark.usefixtures("package")
def test_a_signature_is_read_from_the_source() -> None:
    expected = {
        "mine_of_test.here.Whole": (["b", "c", "d", "e"], ["b", "d"], False),
        "mine_of_test.here.Defaults": (["params", "lr"], [], False),
        "mine_of_test.here.Keywords": (["params"], ["params"], True),
        "mine_of_test.here.Bare": ([], [], False),
        "mine_of_test.here.Renamed": (["params", "größe"], ["params", "größe"], False),
        "mine_of_test.here.Deep": (["params", "depth"], ["params", "depth"], False),
        "mine_of_test.Deep": (["params", "depth"], ["params", "depth"], False),
        "mine_of_test.here.Below": (["b", "c", "d", "e"], ["b", "d"], False),
        "mine_of_test.here.PassesOn": (["params", "own", "c", "d", "e"], ["params", "own", "d"], False),
        "mine_of_test.here.KeepsToItself": (["params"], ["params"], True),
        "mine_of_test.here.OfNobodyKnown": None,
        "mine_of_test.here.Fields": None,
        "single_of_test.Bare": ([], [], False),
    }
    assert {target: read(target) for target in expected} == expected


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "target",
    [
        *(f"mine_of_test.here.{name}" for name in ("Neighbour", "Beside", "Nowhere")),
        *("mine_of_test.none.Bare", "nothing_of_test.Bare", "single_of_test.below.Bare", "Bare"),
    ],
)
def test_a_missing_name_is_not_found(target: str) -> None:
    with pytest.raises(LookupError):
        find(target)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["here.Other", "here.Function", "here.rate", "here.ABC", "here"])
def test_a_target_that_is_not_a_class_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^optimizer\._target_ must be a class"):
        check_spec({"_target_": f"mine_of_test.{name}"}, "optimizer", ["mine_of_test"])


def test_a_class_with_keyword_arguments_accepts_any_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open_of_test").mkdir()
    (tmp_path / "open_of_test/__init__.py").write_text(
        "class Open:\n    def __init__(self, params, lr: float = 1.0, **rest): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("descent.config.targets.KINDS", {})  # Open derives from nothing
    packages = ["open_of_test"]
    check_spec({"_target_": "open_of_test.Open", "anything": object()}, "optimizer", packages)
    with pytest.raises(UserError, match=r"^optimizer\.lr must be a number between -1e30 and 1e30, got 'a'"):
        check_spec({"_target_": "open_of_test.Open", "lr": "a"}, "optimizer", packages)
    with pytest.raises(UserError, match=r"^optimizer\._target_ must be a class in open_of_test \(the key packages"):
        check_spec({"_target_": "torch.optim.SGD"}, "optimizer", packages)

"""Which keywords a class takes is read from its source; nothing is imported."""

from pathlib import Path

import pytest

from descent.config.hyperparameters import check_spec
from descent.config.signature import Signature, signature_of
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
"""


def test_a_signature_is_read_from_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("class Deep:\n    def __init__(self, params, depth): ...\nraise ValueError\n")
    (package / "here.py").write_text(SOURCE)
    (package / "other.py").write_text(
        "class Original:\n    def __init__(self, params, größe): ...\nOther = 1\n", "utf-8"
    )
    (package / "other").mkdir()
    (package / "other/__init__.py").write_text("")
    (tmp_path / "single_of_test.py").write_text("class Bare: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = {
        "mine_of_test.here.Whole": Signature(("a", "b", "c", "d", "e"), ("a", "b", "d")),
        "mine_of_test.here.Defaults": Signature(("lr",), ()),
        "mine_of_test.here.Keywords": None,
        "mine_of_test.here.Bare": None,
        "mine_of_test.here.Renamed": Signature(("größe",), ("größe",)),
        "mine_of_test.here.Deep": Signature(("depth",), ("depth",)),
        "mine_of_test.Deep": Signature(("depth",), ("depth",)),
    }
    assert {target: signature_of(target) for target in expected} == expected
    for name in ("Neighbour", "Beside", "Original", "Other", "Function", "ABC", "rate"):
        with pytest.raises(LookupError):
            signature_of(f"mine_of_test.here.{name}")
    for target in (
        "mine_of_test.none.Bare",
        "nothing_of_test.Bare",
        "single_of_test.Bare",
        "Bare",
        "mine_of_test.here",
    ):
        with pytest.raises(LookupError):
            signature_of(target)


def test_a_class_that_takes_any_keyword_may_be_given_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descent.config.hyperparameters.ALLOWED_PACKAGES", ("open_of_test",))
    (tmp_path / "open_of_test").mkdir()
    (tmp_path / "open_of_test/__init__.py").write_text("class Open:\n    def __init__(self, params, **rest): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_spec({"_target_": "open_of_test.Open", "anything": object()}, "optimizer")
    with pytest.raises(UserError, match=r"^optimizer\.lr must be a number greater than 0"):
        check_spec({"_target_": "open_of_test.Open", "lr": 0}, "optimizer")
    with pytest.raises(
        UserError, match=r"^optimizer\._target_ must be a class in open_of_test, got 'torch\.optim\.SGD'"
    ):
        check_spec({"_target_": "torch.optim.SGD"}, "optimizer")

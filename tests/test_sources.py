"""Tests resolving names and base classes from source files without importing them."""

import ast
from pathlib import Path

import pytest

from descent.config.source import bases, derives, dotted, find, read_module, signature_of
from descent.config.targets import derives_from

HERE = """
import os.path
import far_of_test.deep.other as renamed, far_of_test.deep.best
from .. import sibling as up
from ..sibling import First as Aliased
from . import *
from .nowhere import *
from .deep.other import *
try:
    import fast_of_test as chosen
    def tried(): ...
except ImportError:
    chosen = None
    def tried(a): ...
    failed: int = 1
if True:
    when = 1
    both = 1
else:
    both = 2
    otherwise = 3
later = 1
later = 2
typed: int = 5
only_annotated: int
first, second = 1, 2
async def waits(): ...
def own_name(): ...
class Round(after): ...
from .here import loop
"""


@pytest.fixture(autouse=True)
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "far_of_test/__init__.py": "",
        "far_of_test/sibling.py": "class First: ...\n",
        "far_of_test/deep/__init__.py": "class InDeep: ...\n",
        "far_of_test/deep/here.py": HERE,
        "far_of_test/deep/deep/other.py": "class Starred: ...\n",  # a directory without __init__.py is a package too
        "far_of_test/deep/other.py": "class Größe: ...\n",
        "far_of_test/deep/best.py": "raise SystemExit\n",
        "far_of_test/both.py": "class Module: ...\n",
        "far_of_test/both/__init__.py": "class Package: ...\n",
        "far_of_test/fast.cpython-311-x86_64-linux-gnu.so": "",
        "alone_of_test.py": "class Alone: ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def place(path: str) -> str | None:
    """Returns the module and first line of a definition; ``None`` if it has no source."""
    found = find(path)
    return found and f"{found.module.name}: {ast.unparse(found.node).splitlines()[0]}"


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("Aliased", "far_of_test.sibling: class First:"),
        ("InDeep", "far_of_test.deep: class InDeep:"),
        ("Starred", "far_of_test.deep.deep.other: class Starred:"),  # a missing star import comes first
        ("tried", "far_of_test.deep.here: def tried():"),  # the try body comes before its except
        ("failed", "far_of_test.deep.here: 1"),
        ("when", "far_of_test.deep.here: 1"),
        ("both", "far_of_test.deep.here: 1"),
        ("otherwise", "far_of_test.deep.here: 3"),
        ("later", "far_of_test.deep.here: 2"),
        ("typed", "far_of_test.deep.here: 5"),
        ("waits", "far_of_test.deep.here: async def waits():"),
        ("own_name", "far_of_test.deep.here: def own_name():"),
    ],
)
def test_a_name_is_found_where_it_is_bound(name: str, where: str) -> None:
    assert place(f"far_of_test.deep.here.{name}") == where


@pytest.mark.parametrize(
    "name", ["only_annotated", "first", "loop", "chosen", "up", "alias", "renamed", "deep.other.Nope", "__future__"]
)
def test_a_name_without_a_definition_is_not_found(name: str) -> None:
    with pytest.raises(LookupError):
        find(f"far_of_test.deep.here.{name}")


def test_the_file_of_a_module_is_the_one_that_python_imports() -> None:
    assert place("alone_of_test.Alone") == "alone_of_test: class Alone:"
    assert place("far_of_test.both.Package") == "far_of_test.both: class Package:"
    assert place("far_of_test.deep.other.Größe") == "far_of_test.deep.other: class Größe:"
    assert place("far_of_test.fast.Anything") is None and read_module("far_of_test.fast") is None
    for path in ("far_of_test.both.Module", "alone_of_test.x.Alone", "far_of_test.slow.A", "math.sqrt", ".a", ""):
        with pytest.raises(LookupError):
            find(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("renamed.A", "far_of_test.deep.other.A"),
        ("far_of_test.deep.best.B", "far_of_test.deep.best.B"),
        ("os.path.join", "os.path.join"),
        ("up.First", "far_of_test.sibling.First"),
        ("Aliased[int]", "far_of_test.sibling.First"),
        ("later", "far_of_test.deep.here.later"),
        ("later.a.b", "far_of_test.deep.here.later.a.b"),
        ("chosen", "fast_of_test"),
        ("int", None),
        ("int.a", None),
        ("f().a", None),
        ("1", None),
    ],
)
def test_an_expression_resolves_to_a_dotted_path(text: str, path: str | None) -> None:
    module = read_module("far_of_test.deep.here")
    assert module is not None
    assert dotted(ast.parse(text, mode="eval").body, module) == path


CLASSES = """
import abc, typing
from abc import ABC
from typing import Generic, Protocol
T = typing.TypeVar("T")
class Top(object, ABC, Generic[T], Protocol):
    def __init__(self, a, b=1): ...
class Middle(abc.ABC, Top[int], typing.Protocol): ...
class Below(Middle): ...
class Beside: ...
class Mixed(Unknown, Beside): ...
class Two(Beside, Top): ...
class Nameless(make()): ...
class OfFunction(len, Top): ...
def function(): ...
class OfOwn(function): ...
class Hidden(Hidden): ...
class Passes(Top):
    def __init__(self, own, **rest):
        print(**rest)
        super().__init__(own, **rest)
class PassesAll(Top):
    def __init__(self, own, **rest):
        super().__init__(**rest)
class PassesSome(Top):
    def __init__(self, own, **rest):
        super().__init__(b=own, **rest)
class PassesOther(Top):
    def __init__(self, own, **rest):
        super().__init__(**other)
class PassesUp(Keywords):
    def __init__(self, **rest):
        super().__init__(**rest)
class Keywords:
    def __init__(self, b, /, *args, c, **more): ...
class BelowKeywords(Keywords): ...
class PassesToKeywords(Keywords):
    def __init__(self, **rest):
        super().__init__(**rest)
class BelowNothing(Beside, Middle): ...
@decorated
class Decorated(Top):
    def __init__(self, z): ...
"""


@pytest.fixture
def classes(tmp_path: Path) -> str:
    (tmp_path / "far_of_test/classes.py").write_text(CLASSES)
    return "far_of_test.classes"


def test_base_classes_are_read_as_far_as_possible(classes: str, tmp_path: Path) -> None:
    def above(name: str) -> list[str | None]:
        found = find(f"{classes}.{name}")
        assert found is not None
        return [base and ast.unparse(base.node).splitlines()[0] for base in bases(found)]

    top = "class Top(object, ABC, Generic[T], Protocol):"
    assert {name: above(name) for name in ("Top", "Middle", "Mixed", "Nameless", "OfFunction", "OfOwn", "Hidden")} == {
        "Top": [],
        "Middle": [top],
        "Mixed": [None, "class Beside:"],
        "Nameless": [None],
        "OfFunction": [None, top],
        "OfOwn": [None],
        "Hidden": [None],
    }
    found = {
        name: find(f"{classes}.{name}")
        for name in ("Top", "Middle", "Below", "Two", "OfFunction", "Beside", "Mixed", "Hidden")
    }
    assert {name: derives(each, f"{classes}.Top") for name, each in found.items() if each} == {
        **dict.fromkeys(("Top", "Middle", "Below", "Two", "OfFunction"), True),
        **{"Beside": False, "Mixed": None, "Hidden": None},  # an unknown base may derive from Top
    }
    (tmp_path / "far_of_test/all.py").write_text("from far_of_test.classes import *\n")
    nameless = find(f"{classes}.Nameless")
    assert nameless is not None and derives(nameless, "far_of_test.all.Top") is None
    assert derives_from(f"{classes}.Below", f"{classes}.Top") is True
    assert derives_from(f"{classes}.Mixed", f"{classes}.Top") is derives_from(
        "far_of_test.fast.A", "far_of_test.fast.B"
    )
    assert derives_from(f"{classes}.Mixed", f"{classes}.Top") is False


def test_a_class_takes_the_arguments_of_its_own_or_an_inherited_init(classes: str) -> None:
    def taken(name: str) -> tuple[list[str], bool] | None:
        found = find(f"{classes}.{name}")
        assert found is not None
        signature = signature_of(found)
        return signature and ([*signature.arguments], signature.any_key)  # type: ignore[return-value]

    names = ("Below", "Mixed", "Two", "BelowKeywords", "BelowNothing", "Decorated")
    assert {name: taken(name) for name in names} == {
        "Below": (["a", "b"], False),
        "Mixed": None,
        "Two": (["a", "b"], False),
        "BelowKeywords": (["c"], True),
        "BelowNothing": (["a", "b"], False),
        "Decorated": (["z"], False),
    }
    names = ("Passes", "PassesAll", "PassesSome", "PassesOther", "PassesToKeywords")
    assert {name: taken(name) for name in names} == {
        "Passes": (["own"], True),  # positional arguments to super().__init__ are not resolved
        "PassesAll": (["own", "a", "b"], False),
        "PassesSome": (["own", "a"], False),
        "PassesOther": (["own"], True),
        "PassesToKeywords": (["c"], True),
    }

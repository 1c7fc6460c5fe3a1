"""Tests the messages that say what an annotation allows, read from a file that is not imported."""

import ast
from pathlib import Path

import pytest

from descent.config.annotations import UnknownTypeError, type_of, words
from descent.config.source import read_module

ANNOTATED = """
import typing as t, torch
from collections.abc import Callable, Mapping, Sequence as S
from typing import Annotated, Any, List, Literal, Optional, Union
from pathlib import Path
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import Field, FilePath, NonNegativeFloat, PositiveInt
from descent.config.types import Fraction, Seed
Alias = t.Union[int, None]
class Thing: ...
"""
NUMBER = "a number between -1e30 and 1e30"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", "an integer"),
        ("'int'", "an integer"),
        ("None", "null"),
        ("str | None", "a string or null"),
        ("None | str", "null or a string"),
        ("Optional[bool]", "true or false or null"),
        ("Union[int, float]", NUMBER),
        ("float | int | str", f"{NUMBER} or a string"),
        ("int | torch.Tensor", "an integer"),
        ("int | Callable[[int], int]", "an integer"),
        ("torch.Tensor", None),
        ("torch.Tensor | None", None),
        ("Callable", None),
        ("Thing", None),
        ("t.Nowhere", None),
        ("annotated_of_test.nothing.A", None),
        ("lambda: 1", None),
        ("set[int]", "a list, each an integer"),
        ("t.Iterable[int]", "a list, each an integer"),
        ("t.Collection[str]", "a list, each a string"),
        ("t.MutableMapping[str, int]", "a group of keys"),
        ("object", "of another kind"),
        ("Alias", "an integer or null"),
        ("Literal['a', 1, 'a']", "one of a, 1"),
        ("Literal['a'] | None", "one of a or null"),
        ("Literal['a'] | Literal['b'] | int", "one of a, b or an integer"),
        ("list", "a list"),
        ("List[int]", "a list, each an integer"),
        ("S[Thing]", "a list"),
        ("list[list[float]]", f"a list, each a list, each {NUMBER}"),
        ("tuple[int, ...]", "a list, each an integer"),
        ("tuple[int, str, int]", "3 values"),
        ("t.Tuple[float, float]", f"2 values, each {NUMBER}"),
        ("tuple", "a list"),
        ("Mapping[str, int]", "a group of keys"),
        ("dict", "a group of keys"),
        ("Any", "of another kind"),
        ("Path", "a path"),
        ("FilePath", "a file"),
        ("PositiveInt", "an integer greater than 0"),
        ("NonNegativeFloat", f"{NUMBER} from 0"),
        ("Seed", "an integer from 0 to 4294967295"),
        ("Annotated[int, Ge(1), Le(4)]", "an integer from 1 and up to 4"),
        ("Annotated[float, Gt(0), Lt(1)]", f"{NUMBER} greater than 0 and below 1"),
        ("Annotated[int, Field(gt=2, le=9)]", "an integer greater than 2 and up to 9"),
        ("Annotated[int, Unknown(1)]", "an integer"),
        ("Annotated[int, MultipleOf(2)]", ""),
        ("Annotated[Fraction, Gt(0)]", "a number from 0 to 1 greater than 0"),
        ("Annotated[Thing, 'a note']", ""),
        ("Annotated[Thing | None, 'a note']", ""),
    ],
)
def test_an_annotation_has_words_for_messages(
    text: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "annotated_of_test.py").write_text(ANNOTATED)
    module = read_module("annotated_of_test")
    assert module is not None
    node = ast.parse(text, mode="eval").body
    if expected is None:
        with pytest.raises(UnknownTypeError):
            type_of(node, module)
    else:
        assert words(type_of(node, module)) == expected

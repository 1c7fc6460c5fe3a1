"""Turns annotations read from source code into types for pydantic, with words for error messages."""

import ast
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from descent.config import types
from descent.config.source import Module, dotted, find

# Light modules, imported to learn what an annotation means. Types of other modules allow any value.
LIGHT = ("typing", "typing_extensions", "collections.abc", "pathlib", "pydantic", "annotated_types", types.__name__)

STRICT: dict[Any, Any] = {int: types.Integer, float: types.Number, bool: types.Boolean, str: types.AnyText}
KNOWN: dict[str, Any] = {
    **{kind.__name__: strict for kind, strict in STRICT.items()},
    **{"list": list, "List": list, "Sequence": list, "Iterable": list, "Collection": list, "set": list},
    **{"tuple": tuple, "Tuple": tuple, "object": Any, "Any": Any},
    **{"dict": dict, "Dict": dict, "Mapping": dict, "MutableMapping": dict},
    **{"Path": types.AbsolutePath, "FilePath": types.ExistingFile},
}


class UnknownTypeError(Exception):
    """An annotation that allows no config value, or whose module is too slow to import."""


def type_of(node: ast.expr, module: Module) -> Any:
    """The type that an annotation stands for. Scalars are strict: ``true`` is not a number, ``1`` is.

    Alternatives that a config cannot hold, such as a tensor or a callable, are left out.

    Raises:
        UnknownTypeError: no alternative is left.
    """
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as text):
            return type_of(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _union([left, right], module)
        case ast.Subscript(value=value, slice=inside):
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return _subscript(value, parts, module)
        case ast.Name() | ast.Attribute():
            return _named(node, module)
    raise UnknownTypeError


def _named(node: ast.Name | ast.Attribute, module: Module) -> Any:
    path = dotted(node, module)
    if path is None:
        if isinstance(node, ast.Name) and node.id in KNOWN:
            return KNOWN[node.id]
        raise UnknownTypeError
    package, _, name = path.rpartition(".")
    if path == "torch.Tensor":  # common in annotations, never a config value, and its module is slow to read
        raise UnknownTypeError
    if package in LIGHT:
        return KNOWN[name] if name in KNOWN else _strict(getattr(import_module(package), name, None))
    try:
        found = find(path)
    except LookupError:
        raise UnknownTypeError from None
    if found is None or not isinstance(found.node, ast.expr):
        raise UnknownTypeError
    return type_of(found.node, found.module)


def _strict(kind: Any) -> Any:
    """A type from pydantic, such as ``PositiveInt``, made strict; this project's types already are."""
    if get_origin(kind) is not Annotated:
        raise UnknownTypeError
    base, *rest = get_args(kind)
    return kind if types.Rule in map(type, rest) else _annotated(STRICT.get(base, base), rest)


def _annotated(kind: Any, metadata: Sequence[Any]) -> Any:
    """The type with further limits, which its words name; it has no words if one of them is, say, a function."""
    base, *own = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    limits = [_limit(entry) for part in metadata for entry in getattr(part, "metadata", [part])]
    rule = [] if "" in limits else [types.Rule(words(kind) + " and".join(limits))]
    return Annotated[(base, *(part for part in own if not isinstance(part, types.Rule)), *metadata, *rule)]


def _subscript(value: ast.expr, parts: Sequence[ast.expr], module: Module) -> Any:
    name = (dotted(value, module) or ast.unparse(value)).rpartition(".")[2]
    match name:
        case "Union":
            return _union(parts, module)
        case "Optional":
            return _union([*parts, ast.Constant(None)], module)
        case "Literal":
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        case "Annotated":
            return _annotated(
                _inner(parts[0], module), [*filter(None, (_metadata(part, module) for part in parts[1:]))]
            )
    kind = KNOWN.get(name)
    if kind not in (list, tuple, dict):
        raise UnknownTypeError
    inner = tuple(
        ... if isinstance(part, ast.Constant) and part.value is ... else _inner(part, module) for part in parts
    )
    return kind[inner]


def _inner(part: ast.expr, module: Module) -> Any:
    try:
        return type_of(part, module)
    except UnknownTypeError:
        return Any


def _union(parts: Sequence[ast.expr], module: Module) -> Any:
    kinds = []
    for part in parts:
        try:
            kinds.append(type_of(part, module))
        except UnknownTypeError:
            continue
    if not kinds or kinds == [None]:
        raise UnknownTypeError
    return Union[tuple(kinds)]  # noqa: UP007  # their number varies


def _metadata(node: ast.expr, module: Module) -> Any:
    """The value of ``Gt(0)``, ``Field(gt=0)`` and the like; ``None`` for other metadata."""
    names = {}
    for name in {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}:
        package, _, last = str(module.names.get(name)).rpartition(".")
        if package in LIGHT:
            names[name] = getattr(import_module(package), last, None)
    try:
        return eval(compile(ast.Expression(node), module.name, "eval"), {"__builtins__": {}}, names)
    except Exception:
        return None


def words(kind: Any) -> str:
    """What a value of the type must be, to follow "must be"; empty where pydantic's message is better."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return next((part.text for part in reversed(arguments) if isinstance(part, types.Rule)), "")
    if origin is Union:
        options = [option for part in arguments if get_origin(part) is Literal for option in get_args(part)]
        others = [words(part) for part in arguments if get_origin(part) is not Literal]
        if types.Number in arguments:  # an integer is one
            others.remove(words(types.Integer)) if types.Integer in arguments else None
        return " or ".join(dict.fromkeys([*([_one_of(options)] if options else []), *others]))
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple and ... not in arguments:
        each = {words(part) for part in arguments}
        return f"{len(arguments)} values, each {each.pop()}" if len(each) == 1 else f"{len(arguments)} values"
    if kind in (list, tuple) or origin in (list, tuple):
        return f"a list, each {words(arguments[0])}" if arguments and arguments[0] is not Any else "a list"
    if kind in (None, type(None)):
        return "null"
    return "a group of keys" if dict in (kind, origin) else "of another kind"


def _one_of(options: Sequence[Any]) -> str:
    return f"one of {', '.join(dict.fromkeys(map(str, options)))}"


def _limit(limit: Any) -> str:
    match limit:
        case Gt(gt):
            return f" greater than {gt}"
        case Ge(ge):
            return f" from {ge}"
        case Lt(lt):
            return f" below {lt}"
        case Le(le):
            return f" up to {le}"
    return ""

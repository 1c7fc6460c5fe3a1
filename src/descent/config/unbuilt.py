"""Finds a nested ``_target_`` for an argument that its class annotates as a module, an optimizer or a scheduler."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from descent.config.source import Argument, Module, derives, dotted, find

# base classes, each with the call that builds an object of it from a dict
BUILD = {
    "torch.nn.Module": 'build({part}, "{key}", {kind})',
    "torch.optim.Optimizer": "build_optimizer({part}, self.parameters())",
    "torch.optim.lr_scheduler.LRScheduler": "build_scheduler({part}, optimizer, self.trainer)",
}
HOLD_A_DICT = ("dict", "Dict", "Mapping", "MutableMapping", "Any", "object", "DictConfig")


def unbuilt_in(value: Any, argument: Argument) -> tuple[str, str] | None:
    """A class for which ``value`` has a ``_target_``, and its base in ``BUILD``; ``None`` if there is none.

    Looks at each alternative, as in ``nn.Module | None``, and into containers, as in ``list[nn.Module]``. An
    annotation that also allows a dict, such as ``nn.Module | dict[str, Any]``, is the class's own choice.
    """
    return _found(value, argument.annotation, argument.module) if argument.annotation else None


def _found(value: Any, annotation: ast.expr, module: Module) -> tuple[str, str] | None:
    options = [*_alternatives(annotation)]
    if isinstance(value, Mapping) and "_target_" in value:
        if any(_name(option, module) in HOLD_A_DICT for option in options):
            return None
        bases = ((ast.unparse(option), _base(option, module)) for option in options)
        return next(((kind, base) for kind, base in bases if base), None)
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for option in options:
        if isinstance(option, ast.Subscript):
            inside = (
                option.slice.elts[-1] if isinstance(option.slice, ast.Tuple) and option.slice.elts else option.slice
            )
            for entry in entries:
                if found := _found(entry, inside, module):
                    return found
    return None


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(value=str() as text):
            try:
                yield from _alternatives(ast.parse(text, mode="eval").body)
            except SyntaxError:  # other text, as in Float[Tensor, "batch dim"]
                yield node
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            yield from (*_alternatives(left), *_alternatives(right))
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            yield from _alternatives(parts[0])
        case ast.Subscript(value=ast.Name(id="Union" | "Optional") | ast.Attribute(attr="Union" | "Optional")):
            for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
                yield from _alternatives(part)
        case _:
            yield node


def _name(node: ast.expr, module: Module) -> str:
    kind = node.value if isinstance(node, ast.Subscript) else node
    return (dotted(kind, module) or ast.unparse(kind)).rpartition(".")[2]


def _base(node: ast.expr, module: Module) -> str | None:
    path = dotted(node, module) if isinstance(node, ast.Name | ast.Attribute) else None
    try:
        found = find(path) if path and "." in path else None
    except LookupError:
        return None
    if not found or not isinstance(found.node, ast.ClassDef):
        return None
    return next((base for base in BUILD if derives(found, base)), None)

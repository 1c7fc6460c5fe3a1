"""The keyword arguments of a class, read from its source and not by importing it.

Importing torch takes seconds; a misspelt ``optimizer.lrr`` should be answered at once.
"""

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Signature:
    arguments: tuple[str, ...]  # without self, and without the first one (the parameters, or the optimizer)
    required: tuple[str, ...]


@cache
def signature_of(target: str) -> Signature | None:
    """The signature of the class at the dotted path ``target``.

    Returns:
        ``None`` where ``__init__`` takes any keyword.

    Raises:
        LookupError: there is no such class.
    """
    module, _, name = target.rpartition(".")
    source = _source_of(module)
    if source is None:
        raise LookupError(target)
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return signature_of(f"{node.module}.{alias.name}")
    raise LookupError(target)


def _source_of(module: str) -> Path | None:
    """The file that a module is read from. Only the package at the top is looked up; nothing is imported."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations)), *rest)
    for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _of_class(node: ast.ClassDef) -> Signature | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            spec = statement.args
            if spec.kwarg is not None:
                return None
            positional = [a.arg for a in spec.posonlyargs + spec.args][2:]
            keywords = [a.arg for a in spec.kwonlyargs]
            without_default = positional[: max(len(positional) - len(spec.defaults), 0)]
            without_default += [k for k, d in zip(keywords, spec.kw_defaults, strict=True) if d is None]
            return Signature((*positional, *keywords), tuple(without_default))
    return None

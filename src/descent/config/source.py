"""Reads classes from their source without importing them.

Importing torch takes seconds; a misspelt ``optimizer.lrr`` should be reported at once.
"""

import ast
import difflib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

SUPPLIED = {"optimizer": 1, "scheduler": 1}  # how many first arguments the code supplies, not the config
NO_INIT = ("object", "ABC", "Generic", "Protocol")  # bases that add no arguments


@dataclass(frozen=True)
class Module:
    """What a module binds its names to: a class, a function, an expression, or an import."""

    name: str
    names: dict[str, ast.AST | str]  # str: the dotted path of an import
    stars: tuple[str, ...]  # modules that it imports * from


@dataclass(frozen=True)
class Found:
    """The definition of a name, and the module that contains it."""

    module: Module
    node: ast.AST


@dataclass(frozen=True)
class Argument:
    module: Module  # that contains its annotation
    required: bool
    annotation: ast.expr | None
    default: ast.expr | None


@dataclass(frozen=True)
class Signature:
    """The signature of ``__init__``, without ``self``."""

    arguments: dict[str, Argument]
    any_key: bool  # it takes **kwargs


def find(path: str) -> Found | None:
    """The definition at a dotted path; follows re-exports.

    Returns:
        ``None`` if there is no Python source to read, as for a compiled module.

    Raises:
        LookupError: there is no such module, or it has no such name.
    """
    visited: set[str] = set()
    while path not in visited:
        visited.add(path)
        name, _, last = path.rpartition(".")
        module = read_module(name)
        if module is None:
            return None
        bound = module.names.get(last)
        if bound is None:
            for star in module.stars:
                try:
                    return find(f"{star}.{last}")
                except LookupError:
                    continue
            close = difflib.get_close_matches(last, module.names, n=1)
            hint = f"; did you mean {name}.{close[0]}?" if close else ""
            raise LookupError(f"{name} has no {last}{hint}")
        if not isinstance(bound, str):
            return Found(module, bound)
        path = bound
    raise LookupError(f"{path} has no definition")


@cache
def read_module(name: str) -> Module | None:
    """The names of a module; ``None``: it has no Python source.

    Raises:
        LookupError: there is no such module.
    """
    path = _path_of(name)
    if path.suffix != ".py":
        return None
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: dict[str, ast.AST | str] = {}
    stars: list[str] = []
    for statement in _statements(ast.parse(path.read_text(encoding="utf-8"), str(path)).body):
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names[statement.name] = statement
            case ast.Assign(targets=[ast.Name(id=bound)], value=value):
                names[bound] = value
            case ast.AnnAssign(target=ast.Name(id=bound), value=ast.expr() as value):
                names[bound] = value
            case ast.Import():
                for alias in statement.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    names[bound] = alias.name if alias.asname else bound
            case ast.ImportFrom():
                parents = package.split(".")
                parents = parents[: len(parents) - statement.level + 1] if statement.level else []
                source = ".".join([*parents, *([statement.module] if statement.module else [])])
                for alias in statement.names:
                    if alias.name == "*":
                        stars.append(source)
                    else:
                        names[alias.asname or alias.name] = f"{source}.{alias.name}"
    return Module(name, names, tuple(stars))


def _path_of(module: str) -> Path:
    """The file of a module. Python only looks up the top-level package; nothing is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise LookupError(f"there is no module {module}")
    if not rest and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or []:
        path = Path(folder, *rest)
        compiled = path.parent.glob(f"{path.name}.*.so") if rest else []
        for candidate in chain((path / "__init__.py", path.with_name(f"{path.name}.py")), compiled):
            if candidate.is_file():
                return candidate
    raise LookupError(f"there is no module {module}")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module and of its ``if`` and ``try`` blocks; the last one that binds a name counts."""
    for statement in body:
        match statement:
            case ast.If():
                yield from _statements([*statement.orelse, *statement.body])
            case ast.Try():
                yield from _statements([s for handler in statement.handlers for s in handler.body] + statement.body)
            case _:
                yield statement


def dotted(node: ast.expr, module: Module) -> str | None:
    """The path that a name or an attribute stands for: ``t.Optional`` after ``import typing as t`` is
    ``typing.Optional``. ``None``: a builtin, or another expression."""
    match node:
        case ast.Name(id=name):
            bound = module.names.get(name)
            return bound if isinstance(bound, str) else f"{module.name}.{name}" if bound is not None else None
        case ast.Attribute(value=value, attr=attribute):
            before = dotted(value, module)
            return before and f"{before}.{attribute}"
        case ast.Subscript(value=value):
            return dotted(value, module)
    return None


def base_paths(found: Found) -> list[str | None]:
    """The dotted paths of the base classes of a class; ``None`` for one that cannot be read."""
    assert isinstance(found.node, ast.ClassDef)
    own = f"{found.module.name}.{found.node.name}"  # class SGD(SGD) hides the class that it derives from
    paths = []
    for base in found.node.bases:
        path = dotted(base, found.module)
        if (path or ast.unparse(base)).split(".")[-1] not in NO_INIT:
            paths.append(None if path == own else path)
    return paths


def bases(found: Found) -> Iterator[Found | None]:
    """The base classes of a class; ``None`` for one that cannot be read."""
    for path in base_paths(found):
        try:
            above = find(path) if path else None
        except LookupError:
            above = None
        yield above if above and isinstance(above.node, ast.ClassDef) else None


def is_at(found: Found, path: str) -> bool:
    """Whether a class is the one at a dotted path, which ends in the name of its definition."""
    assert isinstance(found.node, ast.ClassDef)
    return found.node.name == path.rpartition(".")[2] and found == find(path)


def derives(found: Found, base: str) -> bool | None:
    """Whether a class is the one at the dotted path ``base`` or derives from it; ``None``: that cannot be read.

    Does not read the file that defines the base if a class imports it by this path, or from where this path imports it:
    those of Lightning and torch are long.
    """
    package, _, name = base.rpartition(".")
    module = read_module(package)
    imported = module.names.get(name) if module else None
    paths = [path for path in base_paths(found) if path]
    if base in paths or imported in paths or is_at(found, base):
        return True
    answers = [derives(above, base) if above else None for above in bases(found)]
    return True if True in answers else None if None in answers else False


def signature_of(found: Found) -> Signature | None:
    """The arguments that a class takes; ``None``: they cannot be read."""
    assert isinstance(found.node, ast.ClassDef)
    for statement in found.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            own = _of_init(statement.args, found.module)
            return _with_those_above(own, statement, found) if own.any_key else own
    if found.node.decorator_list:  # a dataclass takes its fields as arguments
        return None
    for above in bases(found):
        signature = signature_of(above) if above else None
        if signature is None or signature.arguments or signature.any_key:
            return signature
    return Signature({}, any_key=False)


def _with_those_above(own: Signature, init: ast.FunctionDef, found: Found) -> Signature:
    """Adds the arguments of ``super().__init__`` if it gets ``**kwargs``, except those passed to it by name."""
    for call in ast.walk(init):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__" and init.args.kwarg):
            continue
        if init.args.kwarg.arg in [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]:
            above = next(bases(found), None)
            signature = signature_of(above) if above else None
            if signature and not call.args:
                given = [keyword.arg for keyword in call.keywords]
                left = {name: argument for name, argument in signature.arguments.items() if name not in given}
                return Signature({**own.arguments, **left}, signature.any_key)
    return own


def _of_init(spec: ast.arguments, module: Module) -> Signature:
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + spec.defaults
    keywords = zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    given = [*zip(positional, defaults, strict=True)][max(1, len(spec.posonlyargs)) :]
    arguments = {a.arg: Argument(module, default is None, a.annotation, default) for a, default in [*given, *keywords]}
    return Signature(arguments, any_key=spec.kwarg is not None)

"""Renames the example's package in names and imports, but not in prose such as "linear regression"."""

import ast
import re

EXAMPLE = "regression"
VARIABLE = "DESCENT_LOGS"

_NAME = re.compile(
    "|".join(
        (
            rf"(?<=\bfrom ){EXAMPLE}(?= import\b)",
            rf"(?<=\bimport ){EXAMPLE}(?=$|,| as\b)",
            rf"(?<![\w.-]){EXAMPLE}(?=\.[a-z_]|/)",  # a dotted name, a directory
            rf"(?<=[=\[,/]){EXAMPLE}(?![\w-])",  # callbacks=regression, [regression,swa], callbacks/regression.yaml
            rf"(?<=[\"'`]){EXAMPLE}(?=[\"'`])",
            rf"(?<=descent, ){EXAMPLE}(?![\w-])",  # the list of packages, and messages that show it
            rf"(?<=callbacks: ){EXAMPLE}(?=\s*(?:#|$))",
        )
    ),
    re.M,
)


def renamed(text: str, package: str) -> str:
    """Returns a file's text with the example's package, ``callbacks`` option and environment variable renamed."""
    text = re.sub(r"(?m)^(  (?:experiment_name|project): )descent$", rf"\1{package}", text)  # in logger options
    return re.sub(rf"\b{VARIABLE}\b", f"{package.upper()}_LOGS", _NAME.sub(package, text))


def renamed_path(name: str, package: str) -> str:
    """Returns the renamed path of a file, relative to the project."""
    parts = name.split("/")
    stem, dot, suffix = parts[-1].partition(".")
    parts[-1] = (package if stem == EXAMPLE else stem) + dot + suffix
    return "/".join(package if part == EXAMPLE else part for part in parts)


def names_example(text: str) -> bool:
    """Whether a config file uses the example's classes."""
    return bool(re.search(rf"^\s*_target_:\s*{EXAMPLE}\.", text, re.M))


def imports_example(text: str) -> bool:
    """Whether Python code imports the example.

    Raises:
        SyntaxError: it is not Python.
    """
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return any(name.partition(".")[0] == EXAMPLE for name in names)

"""Edits the template's own files for a new project: its name, its defaults, only the targets it needs."""

import json
import re
import tomllib
from datetime import date

LONG_TESTS = (
    r" -m 'not soak and not slurm and not workers'",
    r"^    \"soak: .*\n",
    r"^    \"slurm: .*\n",
    r"^    \"workers: .*\n",
)  # the long tests, and those on a cluster

UNTYPED = """[[tool.mypy.overrides]]
module = ["PACKAGE.*"] # types are checked where you write them
disallow_any_generics = false
disallow_incomplete_defs = false
disallow_untyped_calls = false
disallow_untyped_defs = false
warn_return_any = false # torch's modules return Any

"""


def pyproject(text: str, package: str, title: str, blank: bool) -> str:
    """Edits ``pyproject.toml``: sets the project's name; for a blank project, removes what only the example needs."""
    project = tomllib.loads(text)["project"]
    for pattern, new in (
        (r"(?m)^name = .*$", f'name = "{package}"'),
        (r"(?m)^version = .*$", 'version = "0.1.0"'),
        (r"(?m)^description = .*$", f"description = {json.dumps(title, ensure_ascii=False)}"),
        (r"(?m)^authors = .*$", f'authors = [{{ name = "the {package} authors" }}]'),
        (r"(?m)^known-first-party = .*$", f'known-first-party = ["descent", "{package}"]'),
    ):
        text = _once(pattern, new, text, "pyproject.toml")
    text = re.sub(rf'"{re.escape(project["name"])}\[', f'"{package}[', text)  # an extra that includes others
    text = re.sub(r'(?m)^pythonpath = \["scripts"\].*\n', "", text)  # for the benchmark
    if blank:
        for pattern in (r"^diabetes = .*\n", "diabetes,", r', "selenium[^"]*"', r'"sklearn\.\*", ', *LONG_TESTS):
            text = _once(pattern, "", text, "pyproject.toml")
        untyped = UNTYPED.replace("PACKAGE", package)
        text = _once(r"(?=^\[tool\.pytest\.ini_options\]$)", untyped, text, "pyproject.toml")
    return text


def license_text(text: str, package: str) -> str:
    """Edits ``LICENSE``: this year, and the project's authors as in ``pyproject.toml``."""
    return _once(r"(?<=\) )(\d{4}) the \w+ authors$", f"{date.today().year} the {package} authors", text, "LICENSE")


def guides(text: str, package: str, blank: bool) -> str:
    """Edits ``.github/guides.md``: the project's own package in the code to copy, and where the example is."""
    text = _once(r" Replace `mine` by your own name\.", "", text, ".github/guides.md")
    text = re.sub(r"\bmine\b", package, text)
    if blank:  # it has neither of the example's files
        text = _once(r" and `src/regression/comparison\.py`\.", ".", text, ".github/guides.md")
    return text.replace("`src/regression/", "the template's `" if blank else f"`src/{package}/")


def train_yaml(text: str, package: str, title: str) -> str:
    """Edits ``conf/train.yaml`` for a blank project: removes all references to the example."""
    text = _once(r"\A#.*$", f"# {title}. `--help` lists the options of each group.", text, "conf/train.yaml")
    for group, option in (("data", package), ("model", package), ("callbacks", "none")):
        text = _once(rf"(?m)^  - {group}: \S+", f"  - {group}: {option}", text, "conf/train.yaml")
    text = re.sub(r"(?m)^(?:predict_at|figures): .*\n", "", text)
    return text.replace("; data.seed is the data's own", "")


def workflow(text: str) -> str:
    """Edits the CI workflow: removes ``.ci/run``, which installs what the example's tests need."""
    steps = r"^      - run: bash \.ci/run\n.*\n      - run: .*\n.*\n"
    return _once(steps, "      - run: make lint && make test\n", text, ".github/workflows/ci.yaml")


def makefile(text: str, blank: bool) -> str:
    """Edits the ``Makefile``: removes the target for the README's pictures, and ``soak`` from blank projects."""
    for target in ("pictures", "soak") if blank else ("pictures",):
        text = re.sub(rf"(?m)(?:^#.*\n)*^{target}:.*\n(?:\t.*\n)*\n?", "", text)
        text = re.sub(rf"(?m)^(\.PHONY:.*) {target}\b", r"\1", text)
    return re.sub(r"(?m)^(?:CHROMIUM|SCREENSHOT) .*\n(?:\t.*\n)*", "", text)


def _once(pattern: str, new: str, text: str, where: str) -> str:
    text, count = re.subn(pattern, lambda _: new, text, count=1, flags=re.M)
    if not count:
        raise SystemExit(f"error: {where} is not the template's: it has no line like {pattern}")
    return text

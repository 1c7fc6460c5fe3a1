"""Lists the template's files, and those that a new project gets."""

import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from template.renaming import EXAMPLE, names_example

ROOT = Path(__file__).resolve().parents[2]
MACHINERY = ("src/descent", "src/hydra_plugins")
BLANK = "scripts/template/blank"  # a small project whose package is `blank`

NEEDED = [  # the rest may have been deleted on purpose: optional packages, experiments, tests
    *("src/descent/__init__.py", f"src/{EXAMPLE}/__init__.py", "conf/train.yaml", "scripts/train.py", "Makefile"),
    *("pyproject.toml", "constraints.txt", "LICENSE", ".gitignore", f"{BLANK}/README.md"),
    *(f"{BLANK}/src/blank/{name}.py" for name in ("__init__", "data", "model")),
    *(f"{BLANK}/conf/{group}/blank.yaml" for group in ("data", "model")),
    f"{BLANK}/tests/test_blank.py",
]
TOP = (  # the template's files, if there is no git repository to list them
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *("Makefile", "README.md", "conf"),
    *("constraints.txt", "logs/.gitkeep", "pyproject.toml", "scripts", "src", "tests"),
)
TEMPLATES_OWN = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "scripts/new_project.py", "scripts/template"),
    *(".github/assets", ".github/ISSUE_TEMPLATE"),
    *("scripts/benchmark.py", "scripts/benchmarks"),
    *(f"tests/{name}.py" for name in ("test_benchmark", "test_new_project", "test_readme", "test_tutorials")),
    *("tests/test_guides.py", "tests/test_new_project_makes.py", "tests/test_upgrade.py"),
    *(
        f"conf/experiment/{name}.yaml"
        for name in (
            *("study_hours", "study_hours_stochastic", "line_numpy", "line_linear"),
            *("two_features", "ten_features", "exploding"),
        )
    ),
)
EXAMPLES_OWN = (
    *(f"src/{EXAMPLE}", "tests", "conf/data", "conf/model", "conf/experiment"),
    *(".ci", "conf/batch/single.yaml"),  # what its tests install, and an old name
)


def source_files(root: Path = ROOT) -> list[str]:
    """Returns the template's files, relative to ``root``: those that git tracks, or without git all but ignored ones.

    Raises:
        SystemExit: files are missing, or git fails.
    """
    if (root / ".git").exists():
        names = _tracked(root)
    else:
        names = [name for top in TOP for name in _below(root, top) if not ignored(root, name)]
    plugins = ["src/hydra_plugins/descent/resuming.py"] if (root / "src/descent/sweep").is_dir() else []
    lacking = sorted(name for name in {*names, *NEEDED, *plugins} if not (root / name).is_file())
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise SystemExit(f"error: {root} lacks files of the template: {lacking[0]}{more}")
    return sorted(names)


def project_files(root: Path, blank: bool) -> list[str]:
    """Returns the files that a new project gets, by their names in the template."""
    left_out = (*TEMPLATES_OWN, *EXAMPLES_OWN) if blank else TEMPLATES_OWN
    names = [name for name in source_files(root) if not below(name, left_out)]
    return [name for name in names if not (blank and _is_examples_option(root, name))]


def below(name: str, places: tuple[str, ...]) -> bool:
    """Whether a file is one of the places, or inside one."""
    return any(name == place or name.startswith(f"{place}/") for place in places)


def ignored(root: Path, name: str) -> bool:
    """Whether ``.gitignore`` names the file or a parent directory; patterns with a path (for ``logs/``) never match."""
    lines = (root / ".gitignore").read_text(encoding="utf-8").splitlines() if (root / ".gitignore").is_file() else []
    patterns = [line.rstrip("/") for line in lines if line and line[0] not in "#!"]
    return any(fnmatch(part, pattern) for part in Path(name).parts for pattern in patterns)


def _is_examples_option(root: Path, name: str) -> bool:
    return name.startswith("conf/") and names_example((root / name).read_text(encoding="utf-8"))


def _below(root: Path, top: str) -> list[str]:
    if (root / top).is_file():
        return [top]
    return [path.relative_to(root).as_posix() for path in (root / top).rglob("*") if path.is_file()]


def _tracked(root: Path) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # set in git hooks
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        done = subprocess.run(command, env=inherited, capture_output=True, check=False)
    except OSError as error:
        raise SystemExit(f"error: {root} is a git checkout, but git cannot list its files: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["git ls-files failed"]
        raise SystemExit(f"error: {root} is a git checkout, but git cannot list its files: {said[0]}")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]

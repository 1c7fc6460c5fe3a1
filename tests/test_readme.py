"""Tests that the README's commands run and its lists are right."""

import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, ROOT, Run, config_of, options, posix, save_config
from forked import run_forked
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descent.run.evaluate import evaluate
from descent.run.result import read_result
from descent.run.resume import resume
from descent.training.callback import ResultCallback
from regression.data.module import RegressionData
from template.create import create

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = (ROOT / ".github/guides.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
SCRIPTS = [command for command in COMMANDS if re.match(r"python scripts/(?!new_project)", command)]


def test_the_two_set_up_commands_come_first() -> None:
    assert COMMANDS[:2] == ["make train", "make test"]


@posix
@pytest.mark.parametrize("command", SCRIPTS)
def test_every_command_runs(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DESCENT_LOGS": str(tmp_path)}
    name, *arguments = shlex.split(command)[1:]
    done = run_forked([str(ROOT / name), *arguments], ROOT, environment, tmp_path / "output", timeout=600)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("result.json")) or "--help" in command


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_command_sets_up_a_venv_and_runs_its_program(command: str) -> None:
    arguments = [*shlex.split(command), "--dry-run", "--always-make"]
    lines = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m venv .venv" in lines
    assert ("-c constraints.txt -e '.[dev]'" if command == "make test" else "-c constraints.txt -e .\n") in lines
    expected = {"make train": "scripts/train.py", "make test": ".venv/bin/pytest"}
    assert expected.get(command, "scripts/train.py optimizer=adam") in lines


def test_the_install_command_is_the_one_that_make_runs() -> None:
    assert "pip install -c constraints.txt -e '.[dev]'" in COMMANDS
    arguments = ["make", "test", "--dry-run", "--always-make"]
    lines = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'" in lines


def test_the_notebook_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "load_config" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(CONF)
    namespace: dict[str, object] = {}
    exec(textwrap.dedent(lines), namespace)
    assert namespace["result"].status == "completed"  # type: ignore[attr-defined]
    run_dir = tmp_path / "logs/runs/notebook"
    assert evaluate(run_dir)["test/loss"] == read_result(run_dir)["metrics"]["test/loss"]
    resume(run_dir, ["trainer.max_epochs=21"])
    assert read_result(run_dir)["epochs"] == 21


Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_dir(run: Run, tmp_path: Path) -> Path:
    """The directory of a run of one epoch; its best weights are its last."""
    overrides = "data.num_features=1", "trainer.max_epochs=1", "figures=false"
    run(*overrides, run_dir=tmp_path / "r")
    save_config(tmp_path / "r", *overrides)
    return tmp_path / "r"


def test_the_commands_on_a_run_are_these() -> None:
    found = re.findall(r"`python scripts/(\w+\.py) RUN_DIR([^`]*)`", README)
    assert found == [("resume.py", ""), ("evaluate.py", ""), ("predict.py", " INPUT OUTPUT")]


def test_resume_on_a_finished_run_makes_it_longer(script: Script, run_dir: Path) -> None:
    done = script("resume.py", str(run_dir))
    assert done.returncode == 1 and "is finished: trainer.max_epochs=N with N above 1 makes it longer" in done.stderr
    assert script("resume.py", str(run_dir), "trainer.max_epochs=2").returncode == 0
    assert (read_result(run_dir)["status"], read_result(run_dir)["epochs"]) == ("completed", 2)


def test_evaluate_on_a_run_prints_its_test_metrics(script: Script, run_dir: Path) -> None:
    done = script("evaluate.py", str(run_dir))
    assert done.returncode == 0, done.stderr
    for name in ("test/loss", "test/mae", "test/r2"):
        (printed,) = re.findall(rf"{name}\W+([-\d.e]+)", done.stdout)
        assert float(printed) == pytest.approx(read_result(run_dir)["metrics"][name], rel=1e-3)


def test_predict_on_a_run_adds_a_column(script: Script, run_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.csv", tmp_path / "predicted.csv"
    source.write_text("x_1,id\n0,a\n1,b\n")
    done = script("predict.py", str(run_dir), str(source), str(output))
    assert done.returncode == 0, done.stderr
    header, *rows = (line.split(",") for line in output.read_text().splitlines())
    assert header == ["x_1", "id", "prediction"]
    assert [row[:2] for row in rows] == [["0", "a"], ["1", "b"]]
    parameters = read_result(run_dir)["parameters"]
    assert float(rows[0][2]) == pytest.approx(parameters["bias"], rel=1e-5)
    assert float(rows[1][2]) == pytest.approx(parameters["bias"] + parameters["weight"][0], rel=1e-5)


def test_tensorboard_serves_the_runs(run: Run, tmp_path: Path) -> None:
    run("trainer.max_epochs=1", run_dir=tmp_path / "logs/runs/shown")
    (command,) = [command for command in COMMANDS if command.startswith("tensorboard")]
    program = Path(sys.executable).with_name("tensorboard")
    arguments = [str(program), *shlex.split(command)[1:], "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(arguments, cwd=tmp_path, stderr=file)
        try:
            for _ in range(120):
                found = re.search(r"http://localhost:(\d+)", log.read_text())
                if found:
                    break
                time.sleep(0.5)
            assert found, log.read_text()
            for _ in range(60):  # TensorBoard reads the runs in the background
                with urllib.request.urlopen(f"http://localhost:{found[1]}/data/runs") as answer:
                    runs = answer.read().decode()
                if "shown" in runs:
                    break
                time.sleep(0.5)
            assert "runs/shown" in runs
        finally:
            server.terminate()
            server.wait()


@pytest.mark.parametrize("group", sorted(path.name for path in CONF.iterdir() if path.is_dir()))
def test_the_table_lists_every_option_of_a_group(group: str) -> None:
    assert f"| `{group}` | {' '.join(f'`{option}`' for option in sorted(options(group)))} |" in README.splitlines()


def test_every_file_that_the_readme_names_exists() -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert len(pictures) == 5
    for name in [*pictures, *re.findall(r"`((?:src|conf|scripts|tests)/[\w/.]*)`", README + GUIDES)]:
        if "/mine" in name:
            continue  # a file of the guides
        assert (ROOT / name).exists(), name


def test_make_pictures_draws_the_pictures() -> None:
    done = subprocess.run(["make", "-n", "pictures"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in re.findall(r"!\[.+?\]\((.+?)\)", README):
        assert name in done.stdout


def test_constraints_pin_every_dependency_without_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+( ; .+)?", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    for requirement in [*project["dependencies"], *extras]:
        name = re.match(r"[\w-]+", requirement)[0].lower()  # type: ignore[index]
        assert name in pinned | {project["name"]}
    assert "torch==2.13.0" in lines


def test_every_link_to_a_file_or_a_heading_leads_there() -> None:
    links = [link for link in re.findall(r"\]\((.+?)\)", README) if "://" not in link]
    assert len(links) > 10
    for link in links:
        name, _, anchor = link.partition("#")
        text = (ROOT / name).read_text(encoding="utf-8") if anchor and name else README
        assert not name or (ROOT / name).is_file()
        titles = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall("(?m)^#+ (.+)", text)}
        assert not anchor or anchor in titles, link


def test_every_numbered_reference_has_an_address() -> None:
    used, given = {*re.findall(r"\]\[(\d)\]", README)}, {*re.findall(r"(?m)^\[(\d)\]: https://", README)}
    assert used == given == {"1", "2", "3", "4"}


def test_the_texts_have_their_lengths() -> None:
    assert len(README.splitlines()) <= 250
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 46


def test_the_first_screens_commands_print_what_it_shows(script: Script, tmp_path: Path) -> None:
    (shown,) = re.findall(r"```console\n(.*?)```", README, re.S)
    commands = re.findall(r"\$ python scripts/(.+)\n((?:[^$\n].*\n)+)", shown)
    assert len(commands) == 3
    for command, lines in commands:
        name, *arguments = shlex.split(command.replace("logs/", f"{tmp_path}/logs/"))
        printed = script(name, *arguments).stdout
        for line in lines.splitlines():
            words = re.sub(r"[\d.]+ s$|  [\d.]+$", "", line).replace("logs/", f"{tmp_path}/logs/")  # without seconds
            expected = r"\s+".join(map(re.escape, words.split()))
            assert re.search(expected, printed), (line, printed)


def test_the_six_rows_of_the_benchmark_agree_with_its_table() -> None:
    text = (ROOT / "scripts/benchmarks/README.md").read_text(encoding="utf-8")
    found = re.findall(r"\| (?:a step, )?(.+?) \| .*? \| (.+?) \| .*? \| \*\*([\d.]+)\*\* \|", text)

    def ratios(what: str, against: str) -> list[str]:
        return [ratio for name, other, ratio in found if name.startswith(what) and other == against]

    def span(what: str) -> str:
        every = ratios(what, "plain loop")
        return f"{min(every)} to {max(every)}"

    rows = dict(re.findall(r"(?m)^\| ([^|]+), against [^|]+ \| ([\d., to]+) \|$", README.partition("## Speed")[2]))
    usual = [*ratios("batch 1, sgd", "usual Lightning"), *ratios("batch 32, sgd", "usual Lightning")]
    assert rows == {
        "batch 1": span("batch 1, "),
        "batch 32": span("batch 32, "),
        "full batch of 1,000 rows": span("full batch of 1,000 x 5, "),
        "full batch of 1,000,000 rows": span("full batch of 1,000,000 x 10, "),
        "batch 1, 32 and full": ", ".join([*usual, *ratios("full batch of 1,000 x 5, sgd", "usual Lightning")]),
        "the default run": ratios("the default run", "bare imports")[0],
    }


def test_the_methods_that_the_readme_names_have_these_arguments() -> None:
    for method in (ResultCallback.after_result, RegressionData.file_dataloader):
        names = [name for name in inspect.signature(method).parameters if name != "self"]
        own = ["self"] if method is ResultCallback.after_result else []
        assert f"`{method.__name__}({', '.join([*own, *names])})`" in GUIDES


def test_the_readmes_line_adds_a_figure_to_tensorboard(run: Run, tmp_path: Path) -> None:
    (line,) = re.findall(r"`(logger\.experiment\..+?)`", GUIDES)

    def draw(line: str, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                exec(line, {"logger": logger, "trainer": trainer, "figure": Figure()})

    class Drawing(ResultCallback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            draw(line.replace('"mine"', '"during"'), trainer)

        def after_result(self, trainer: Trainer, result: Mapping[str, Any], run_dir: Path) -> None:
            assert run_dir == Path(trainer.default_root_dir) == tmp_path / "r"  # the README says so too
            draw(line, trainer)

    result = run("trainer.max_epochs=1", "logger=tensorboard_and_csv", callbacks=[Drawing()], run_dir=tmp_path / "r")
    events = EventAccumulator(str(tmp_path / "r")).Reload()
    assert {"during", "mine"} <= {*events.Tags()["images"]}
    assert [image.step for image in events.Images("mine")] == [result.steps]


def test_a_relative_data_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").write_text("x,price\n1,2\n")
    (given,) = re.findall(r"`(data=table .*?)`", README)
    assert config_of(*given.split()).data["path"] == str(tmp_path / "houses.csv")


def test_a_projects_pyproject_has_the_table_for_libraries_without_types(tmp_path: Path) -> None:
    (table,) = re.findall(r"`\[\[(tool\.mypy\.\w+)\]\]`", GUIDES)
    create(tmp_path / "p", "mine", "Mine", True)
    found: Any = tomllib.loads((tmp_path / "p/pyproject.toml").read_text())
    for key in table.split("."):
        found = found[key]
    assert found[0]["ignore_missing_imports"]

"""Tests that every way to compose a config checks it, and that commands survive output that nobody reads."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, ROOT, needs_sweep
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from descent import signals
from descent.config.composing import check, check_resolves
from descent.errors import UserError
from descent.run.run_dirs import run_label
from descent.run.streams import Output

Script = Callable[..., subprocess.CompletedProcess[str]]


def hydra_node(*overrides: str, conf: Path = CONF, name: str = "train") -> Any:
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=True).hydra


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("hydra.run.dir=/tmp/x", "hydra.run.dir"),
        ("hydra={run: {dir: /tmp/x}}", "hydra.run.dir"),
        ("++hydra={sweep: {subdir: ../../x}}", "hydra.sweep.subdir"),
        ("hydra.sweep.dir=/tmp/x", "hydra.sweep.dir"),
        ("++hydra={output_subdir: ../../x}", "hydra.output_subdir"),
        ("hydra.output_subdir=null", "hydra.output_subdir"),
        ("++hydra={callbacks: {a: {_target_: os.system}}}", "hydra.callbacks.a"),
        ("+hydra.callbacks.a._target_=os.system", "hydra.callbacks.a"),
        ("++hydra.job_logging.handlers.file.filename=/tmp/x", "hydra.job_logging.handlers.file.filename"),
        ("++hydra.job_logging.handlers.mine.class=logging.handlers.SMTPHandler", "hydra.job_logging.handlers.mine"),
        ("++hydra.hydra_logging.handlers.console.class=a.B", "hydra.hydra_logging.handlers.console.class"),
        ("hydra/job_logging=none", "hydra.job_logging.formatters.simple"),
        ("hydra.job.name=../../x", "hydra.job.name"),
        ("+hydra.launcher.a={_target_: os.system}", "hydra.launcher.a._target_"),
        ("+hydra.sweeper.a=[{_target_: os.system}]", "hydra.sweeper.a.0._target_"),
        ("hydra.sweeper._target_=os.system", "hydra.sweeper._target_"),
    ],
)
def test_what_would_run_code_or_write_elsewhere_is_refused_in_any_spelling(override: str, key: str) -> None:
    check(hydra_node("optimizer=adam", "hydra.mode=RUN", "hydra.verbose=true"), CONF)
    with pytest.raises(UserError) as raised:
        check(hydra_node(override), CONF)
    rule = (
        "must stay as conf/train.yaml sets it: output goes below logs/, name=... names it, the environment variable"
        " DESCENT_LOGS moves logs/"
    )
    if key == "hydra.job.name":
        rule = "must be app, which names the log file, got '../../x'"
    elif key.endswith("_target_"):
        group = key.split(".")[1]
        rule = f"must be a class of a plugin (hydra/{group}=... chooses one), got 'os.system'"
    assert str(raised.value) == f"{key} {rule}"


def test_hydras_own_sweeper_and_launcher_are_plugins_too() -> None:
    check(hydra_node("hydra/sweeper=basic", "hydra/launcher=basic"), CONF)


def test_an_option_of_somebodys_own_is_judged_as_well(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text((CONF / "train.yaml").read_text())
    for group in CONF.iterdir():
        if group.is_dir():
            (tmp_path / group.name).symlink_to(group)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/elsewhere.yaml").write_text("# @package _global_\nhydra: {run: {dir: /tmp/x}}\n")
    with pytest.raises(UserError, match=r"hydra\.run\.dir must stay as conf/train\.yaml sets it"):
        check(hydra_node("+study=elsewhere", conf=tmp_path), tmp_path)


def test_what_train_yaml_itself_sets_is_allowed(tmp_path: Path) -> None:
    own = OmegaConf.load(CONF / "train.yaml")
    own.hydra.run.dir = "elsewhere"
    own.hydra.job_logging.handlers.console.level = "INFO"
    OmegaConf.save(own, tmp_path / "train.yaml")
    for group in CONF.iterdir():
        if group.is_dir():
            (tmp_path / group.name).symlink_to(group)
    check(hydra_node(conf=tmp_path), tmp_path)


def test_another_primary_config_needs_ours_among_its_defaults() -> None:
    with pytest.raises(UserError) as raised:
        check(hydra_node(name="optimizer/sgd"), CONF, "optimizer/sgd")
    assert str(raised.value) == (
        "--config-name must be a config that has conf/train.yaml among its defaults, got 'optimizer/sgd'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experimental-rerun", "x.pickle"], "--experimental-rerun must not be given"),
        (["--experimental", "x.pickle"], "--experimental-rerun must not be given"),
        (["--config-name", "optimizer/sgd"], "--config-name must be a config"),
        (["--config-path", "pkg://antigravity"], "--config-path must be directories on the command line"),
        (["hydra.searchpath=[pkg://antigravity]"], "hydra.searchpath must be directories on the command line"),
        ([f"predict_at=[[{','.join(map(str, range(20_000)))}]]"], "predict_at must be at most 10,000 characters long"),
        pytest.param(["hydra.sweeper.n_trials=3"], "hydra.sweeper.n_trials needs a sweep: add -m", marks=needs_sweep),
        (["-m", "optimizer="], "optimizer must be one of adadelta, adagrad, adam, "),
        (["hydra/hydra_logging=colorlog"], "hydra/hydra_logging must be one of default, "),
        (["seed=${oc.env:NOPE}"], "seed must be a value that can be resolved (KeyError raised while resolving"),
        (["seed=${seed}"], "seed must be a value that can be resolved (Recursive interpolation detected), got '"),
        (["++seed=${seed}"], "seed must be a value that can be resolved (Recursive interpolation detected), got '"),
        (
            ["+data.a=${nope}"],
            "data.a must be a value that can be resolved (Interpolation key 'nope' not found), got '",
        ),
        ([f"predict_at={'[' * 400}{']' * 400}"], "predict_at must be nested at most 50 deep, got 'predict_at=[[["),
        (["hydra.mode=RUN", "optimizer=sgd,adam"], "Ambiguous value for argument 'optimizer=sgd,adam'"),
    ],
    ids=lambda value: value[0][:30] if isinstance(value, list) else "",
)
def test_a_refused_command_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, script: Script, tmp_path: Path
) -> None:
    done = script("train.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_values_that_are_known_when_the_run_starts_are_not_refused() -> None:
    setup_globals()  # as Hydra does first
    text = "${hydra:runtime.output_dir}/x"
    check_resolves(OmegaConf.create({"a": text, "b": {"c": "${a}"}}), [f"+a={text}", "+b={c: ${a}}"])


def test_an_option_of_any_group_may_ask_for_a_sweep(script: Script, tmp_path: Path) -> None:
    (tmp_path / "own/study").mkdir(parents=True)
    (tmp_path / "own/study/two.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    )
    done = script(
        "train.py", "--config-dir", str(tmp_path / "own"), "+study=two", "trainer.max_epochs=1", "figures=false"
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("logs/sweeps/*/*/result.json")]
    assert sorted(result["seed"] for result in results) == [1, 2]


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["batch.sze=3"]], ids=" ".join)
def test_what_needs_no_check_of_values_imports_nothing_slow(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts/train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not {"torch", "lightning", "numpy", "pydantic"} & imported


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "where", "code"),
    [
        (["--help"], "pipe", 0),
        (["--help"], "full", 1),
        (["--cfg", "job"], "pipe", 0),
        (["--cfg", "job"], "closed", 0),
        (["--cfg", "job"], "full", 1),
    ],
    ids=str,
)
def test_output_that_cannot_be_written_is_no_traceback(arguments: list[str], where: str, code: int) -> None:
    command = [sys.executable, str(ROOT / "scripts/train.py"), *arguments]
    options: dict[str, Any] = {"preexec_fn": lambda: os.close(1)} if where == "closed" else {}
    if where != "closed":
        options["stdout"] = closed_pipe() if where == "pipe" else os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)
    assert done.returncode == code
    full = "error: cannot write to standard output: No space left on device\n"
    assert done.stderr == (full if code else "")


def test_a_reader_that_goes_away_takes_nothing_from_the_run(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/train.py"), "trainer.max_epochs=2"]
    environment = {**os.environ, "DESCENT_LOGS": str(tmp_path)}
    done = subprocess.run(command, stdout=closed_pipe(), stderr=closed_pipe(), env=environment, check=False)
    assert done.returncode == 0
    (path,) = tmp_path.glob("runs/*/result.json")
    result = json.loads(path.read_text())
    assert (result["status"], result["epochs"]) == ("completed", 2)
    assert (path.parent / "figures/predicted.png").is_file()


class Broken(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.file = os.open(os.devnull, os.O_WRONLY)
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.file


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_stream_that_breaks_keeps_its_first_error(number: int) -> None:
    output = Output(Broken(number))
    assert output.error is None
    assert output.write("text") == 4
    output.flush()
    assert output.error is not None and output.error.errno == number
    assert output.encoding is None  # the same as the stream's


@pytest.fixture
def nothing_received() -> Iterator[None]:
    signals._received.clear()
    yield
    signals._received.clear()


@needs_sweep
@pytest.mark.usefixtures("nothing_received")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_job_is_composed_ends_the_sweep_and_fails_no_job(number: int, tmp_path: Path) -> None:
    from hydra_plugins.descent.resuming import ResumingLauncher

    class Swallows:
        def load_sweep_config(self, *args: Any) -> None:
            try:
                signals.exit_at_once(number)
            except SystemExit:  # like a destructor or a library
                raise AttributeError("half composed") from None

    launcher = ResumingLauncher()
    context = type("Context", (), {"config_loader": Swallows()})()
    launcher.setup(
        hydra_context=context,
        task_function=lambda config: None,
        config=OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}),
    )
    with pytest.raises(SystemExit) as raised:
        launcher._job(0, ["seed=1"])
    assert raised.value.code == 128 + number
    assert not list(tmp_path.rglob("result.json"))


@needs_sweep
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "failed"])
def test_a_job_that_no_longer_composes_leaves_the_result_of_a_run_that_has_trained(
    trained: bool, tmp_path: Path
) -> None:
    from hydra_plugins.descent.resuming import ResumingLauncher

    class Refuses:
        def load_sweep_config(self, *args: Any) -> None:
            raise ValueError("there is no such option any more")

    launcher = ResumingLauncher()
    context = type("Context", (), {"config_loader": Refuses()})()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    launcher.setup(hydra_context=context, task_function=lambda config: None, config=config)
    run_dir = tmp_path / "optimizer=mine"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "result.json").write_text('{"status": "completed"}')
    if trained:
        (run_dir / "checkpoints/last.ckpt").touch()
    launcher._job(0, ["optimizer=mine"])
    found = json.loads((run_dir / "result.json").read_text())
    assert found["status"] == ("completed" if trained else "failed")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_process_that_was_started_by_nohup_outlives_its_terminal() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "from descent import signals; signals.install();"
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, signal.getsignal(signal.SIGINT).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "exit_at_once"]


def test_nothing_is_imported_at_the_top_that_windows_lacks() -> None:
    posix = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog"}
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("tests/*.py")]:
        imported = re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.M)
        assert not posix & set(imported), path


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "defaults"),
        (["optimizer=adam", "batch=full", "name=x"], "batch=full,optimizer=adam"),
        (
            ["data=table", "data.path=/tmp/a b/houses.csv", "data.target=price"],
            "data.path=houses.csv,data.target=price,data=table",
        ),
        (["predict_at=[[1, 2]]"], "predict_at=1,2"),
        (["monitor.metric=val/acc"], "monitor.metric=val_acc"),
        ([f"data.{letter}={'x' * 30}" for letter in "abc"], f"data.a={'x' * 30}"),
        (["a=" + "x" * 200], "a=" + "x" * 68),
    ],
)
def test_a_runs_directory_has_a_short_readable_name(overrides: list[str], label: str) -> None:
    assert run_label(overrides) == label

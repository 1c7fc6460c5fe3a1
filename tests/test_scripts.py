"""Tests each script's command line in this process, with the function that it calls replaced."""

import gc
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, needs_compare

from descent import signals
from descent.errors import UserError
from descent.run.result import Result

Calls = list[tuple[Any, ...]]
DEFAULTS: dict[str, Any] = {  # of compare.py
    **{"directories": [Path("a")], "group": [], "x": None, "target": None},
    **{"metric": "", "mode": "", "target_metric": ""},
}


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a script's ``main`` with these arguments; restores the signal handlers after the test."""
    handlers = {number: signal.getsignal(number) for number in signals.HANDLED}
    monkeypatch.setattr("descent.run.command.command", lambda run: run())  # tested separately
    monkeypatch.setenv("COLUMNS", "100")

    def main(name: str, *arguments: str) -> None:
        path = str(ROOT / "scripts" / name)
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        script = runpy.run_path(path)
        assert all(signal.getsignal(number) is signals.exit_at_once for number in signals.HANDLED)
        script["main"]()

    yield main
    for number, handler in handlers.items():
        signal.signal(number, handler)


@needs_compare
@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["a"], {}),
        (
            [
                "a",
                "b",
                "--group",
                " optimizer, ,batch.size,",
                "--x",
                "samples",
                "--target",
                "0.5",
                "--target-metric",
                "val/loss",
                "--metric",
                "val/mine",
                "--mode",
                "max",
            ],
            {
                "directories": [Path("a"), Path("b")],
                "group": ["optimizer", "batch.size"],
                "x": "samples",
                "target": 0.5,
                "target_metric": "val/loss",
                "metric": "val/mine",
                "mode": "max",
            },
        ),
        *((["a", "--x", x], {"x": x}) for x in ("steps", "gradient_evaluations", "seconds")),
    ],
)
def test_compare_is_called_with_the_given_arguments(
    arguments: list[str], call: dict[str, Any], main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regression.comparison import EXTRA

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("descent.compare.ranking.compare", lambda **given: calls.append(given))
    main("compare.py", *arguments)
    assert calls == [{**DEFAULTS, **call, "extra": EXTRA}]


@needs_compare
def test_runs_are_compared_without_the_example(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("descent.compare.ranking.compare", lambda **given: calls.append(given))
    for gone in ("regression", "regression.comparison"):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "regression.comparison", raising=False)
            patch.setitem(sys.modules, gone, None)
            main("compare.py", "a")
        assert calls.pop() == DEFAULTS
    monkeypatch.delitem(sys.modules, "regression.comparison", raising=False)
    monkeypatch.setitem(sys.modules, "numpy.typing", None)  # the example's comparison imports it
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        main("compare.py", "a")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []
    monkeypatch.setattr("descent.run.result.run_result", lambda *given: calls.append(("result", *given)))
    return calls


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["r"], (Path("r"), "best", None)),
        (["r", "--checkpoint", "last", "--data", "f.csv"], (Path("r"), "last", Path("f.csv"))),
        (["--checkpoint", "best", "r"], (Path("r"), "best", None)),
    ],
)
def test_evaluate_prints_one_metric_per_line_and_the_file(
    arguments: list[str],
    call: tuple[Any, ...],
    main: Any,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def evaluate(*given: Any) -> dict[str, float]:
        calls.append(("evaluate", *given))
        return {"test/loss": 123.4567891, "test/r2": 1.0, "test/a_long_name": -1e-9}

    monkeypatch.setattr("descent.run.evaluate.evaluate", evaluate)
    main("evaluate.py", *arguments)
    assert calls == [("result", Path("r")), ("evaluate", *call)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "test/loss         123.457",
        "test/r2           1",
        "test/a_long_name  -1e-09",
        "saved in r/evaluation.json",
    ]


@pytest.mark.parametrize(("arguments", "checkpoint"), [([], "best"), (["--checkpoint", "last"], "last")])
def test_predict_prints_the_output_file(
    arguments: list[str],
    checkpoint: str,
    main: Any,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("descent.run.predict.predict", lambda *given: calls.append(("predict", *given)))
    main("predict.py", "r", "in.csv", "out.csv", *arguments)
    assert calls == [("result", Path("r")), ("predict", Path("r"), Path("in.csv"), Path("out.csv"), checkpoint)]
    assert capsys.readouterr() == ("out.csv\n", f"predicted with the {checkpoint} checkpoint\n")


@pytest.mark.parametrize("name", ["evaluate.py", "predict.py"])
def test_a_directory_without_a_run_is_refused_first(
    name: str, main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("descent.run.evaluate.evaluate", None)
    monkeypatch.setattr("descent.run.predict.predict", None)
    rest = ["in.csv", "out.csv"] if name == "predict.py" else []
    with pytest.raises(UserError, match="RUN_DIR must be the directory of a run"):
        main(name, str(tmp_path), *rest)


@pytest.mark.parametrize("is_run", [True, False])
@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("diverged", 3)])
def test_resume_exits_with_the_runs_code_and_logs_to_an_existing_run(
    status: Any, code: int, is_run: bool, main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: Calls = []

    def resume(*given: Any) -> Result:
        calls.append(("resume", *given))
        return Result(status, seed=0, command="")

    monkeypatch.setattr("descent.run.resume.resume", resume)
    monkeypatch.setattr("descent.run.command.log_to", lambda *given: calls.append(("log", *given)))
    if is_run:
        (tmp_path / ".hydra").mkdir()
    with pytest.raises(SystemExit) as raised:
        main("resume.py", str(tmp_path), "trainer.max_epochs=3", "seed=1")
    assert raised.value.code == code
    log = [("log", tmp_path)] if is_run else []
    assert calls == [*log, ("resume", tmp_path, ["trainer.max_epochs=3", "seed=1"])]


HELP = {
    "compare.py": """\
usage: compare.py [-h] [--group GROUP] [--x {steps,samples,gradient_evaluations,seconds}]
 [--metric METRIC] [--mode {min,max}] [--target TARGET] [--target-metric TARGET_METRIC] DIR [DIR ...]
Compare the runs below DIR...: prints a ranking; writes tables, figures and report.html to DIR/compare/.
positional arguments:
 DIR directory with runs at any depth
options:
 -h, --help show this help message and exit
 --group GROUP keys to compare, each at its best setting, for example optimizer,batch.size
 --x {steps,samples,gradient_evaluations,seconds} x axis of the loss figures; default: all that show something new
 --metric METRIC metric to report and rank by; default: the runs' monitor
 --mode {min,max} which values of --metric are best
 --target TARGET training loss to reach: so far above the optimum's, as a fraction of it, for example 0.01
 --target-metric TARGET_METRIC metric of --target instead, for example val/loss""",
    "evaluate.py": """\
usage: evaluate.py [-h] [--checkpoint {best,last}] [--data FILE] RUN_DIR
Compute the test metrics of a finished run's best checkpoint and add them to its evaluation.json.
positional arguments:
 RUN_DIR logs/runs/NAME or logs/sweeps/NAME/JOB
options:
 -h, --help show this help message and exit
 --checkpoint {best,last}
 --data FILE rows to use instead of the test rows, in a format of the data module; in the example CSV or Parquet""",
    "predict.py": """\
usage: predict.py [-h] [--checkpoint {best,last}] RUN_DIR INPUT OUTPUT
Predict for a file with a finished run; the data module reads INPUT and writes OUTPUT.
In the example: CSV or Parquet in, the same rows with a column "prediction" out.
positional arguments:
 RUN_DIR logs/runs/NAME or logs/sweeps/NAME/JOB
 INPUT in the example: CSV or Parquet with the run's features
 OUTPUT in the example: CSV or Parquet
options:
 -h, --help show this help message and exit
 --checkpoint {best,last} default: best, as for test/*""",
    "resume.py": """\
usage: resume.py [-h] RUN_DIR [trainer.max_epochs=N ...]
Resume an interrupted run in its own directory; trainer.max_epochs=N makes a finished run longer.
positional arguments:
 RUN_DIR logs/runs/NAME or logs/sweeps/NAME/JOB
 trainer.max_epochs=N a larger number of epochs
options:
 -h, --help show this help message and exit""",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_compare if n == "compare.py" else ()) for n in HELP])
def test_each_script_has_its_help_text(name: str, main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(name, "--help")
    assert raised.value.code == 0
    assert capsys.readouterr().out.split() == HELP[name].split()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("compare.py", [], marks=needs_compare),
        pytest.param("compare.py", ["a", "--x", "epochs"], marks=needs_compare),
        pytest.param("compare.py", ["a", "--target", "half"], marks=needs_compare),
        ("evaluate.py", []),
        ("evaluate.py", ["r", "--checkpoint", "first"]),
        ("predict.py", ["r", "in.csv"]),
        ("predict.py", ["r", "in.csv", "out.csv", "--checkpoint", "first"]),
        ("resume.py", []),
    ],
    ids=str,
)
def test_missing_or_invalid_arguments_are_refused(name: str, arguments: list[str], main: Any) -> None:
    with pytest.raises(SystemExit) as raised:
        main(name, *arguments)
    assert raised.value.code == 2


def test_train_passes_its_config_on_and_disables_garbage_collection(
    main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: Calls = []
    monkeypatch.setattr("descent.run.cli.run", lambda *given: ran.append(given))
    monkeypatch.setattr("descent.run.cli.run_job", lambda config: ("result of", config))
    monkeypatch.setattr("descent.run.run_dirs.register", lambda *given: ran.append(given))
    monkeypatch.delenv("DESCENT_LOGS", raising=False)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts/train.py")])
    handlers = {number: signal.getsignal(number) for number in signals.HANDLED}
    try:
        script = runpy.run_path(str(ROOT / "scripts/train.py"), run_name="__main__")
        assert not gc.isenabled()
    finally:
        gc.enable()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ran == [(ROOT / "logs",), (script["main"], ROOT / "conf")]
    assert script["main"].__wrapped__("config") == ("result of", "config")

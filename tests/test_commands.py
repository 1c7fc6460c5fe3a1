"""Tests what commands and their runs print, log, return and clean up."""

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import config_of as composed

from descent import signals
from descent.errors import UserError
from descent.run.command import command, log_to, run_safely
from descent.run.result import Result
from descent.run.streams import Output


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores what ``command`` changes in the process."""
    handlers = {number: signal.getsignal(number) for number in signals.HANDLED}
    for where, name in ((sys, "stdout"), (sys, "stderr"), (logging, "raiseExceptions"), (threading, "excepthook")):
        monkeypatch.setattr(where, name, getattr(where, name))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    signals._received.clear()
    yield
    signals._received.clear()
    signals._exit_code.clear()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def fail(error: Exception, number: int | None = None) -> Callable[[], None]:
    def main() -> None:
        if number is not None:
            signals._received[:] = [number]
        raise error

    return main


def nothing() -> None:
    pass


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("error", [None, UserError("seed must\n be 1"), ValueError("x")], ids=repr)
def test_a_command_ends_in_one_line_and_lets_nothing_disturb_its_end(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def main() -> None:
        seen.append((os.environ["HYDRA_FULL_ERROR"], logging.raiseExceptions, type(sys.stdout), type(sys.stderr)))
        with caplog.at_level(logging.INFO):
            thread = threading.Thread(target=fail(ValueError("in it")), name="other")
            thread.start()
            thread.join()
        if error:
            raise error

    if error is None:
        command(main)
    else:
        with pytest.raises(SystemExit) as raised:
            command(main)
        assert raised.value.code == (
            "error: ValueError: x" if isinstance(error, ValueError) else "error: seed must be 1"
        )
    assert seen == [("1", False, Output, Output)]
    assert [signal.getsignal(number) for number in signals.HANDLED] == [signal.SIG_IGN] * len(signals.HANDLED)
    (record,) = [record for record in caplog.records if record.name == "descent.run.command"]
    assert re.fullmatch(r"in <Thread\(other, .+\)>: in it", record.getMessage())


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("raises", [True, False])
def test_a_signal_that_was_lost_on_its_way_ends_the_command_after_all(raises: bool) -> None:
    with pytest.raises(SystemExit) as raised:
        command(fail(ValueError("x"), 15) if raises else lambda: signals._received.append(15))
    assert raised.value.code == 128 + 15


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("prints", [True, False])
def test_lost_output_fails_only_commands_that_print(
    prints: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("descent.run.streams.lost", lambda: "the disk is full")
    line = "cannot write to standard output: the disk is full\n"
    if prints:
        with pytest.raises(SystemExit) as raised:
            command(nothing, prints=True)
        assert raised.value.code == 1
        assert capsys.readouterr().err == f"error: {line}"
        return
    command(nothing)
    assert capsys.readouterr().err == f"note: {line}"
    with pytest.raises(SystemExit) as raised:
        command(fail(ValueError("x")))
    assert raised.value.code == "error: ValueError: x"
    assert capsys.readouterr() == ("", f"note: {line}")


@pytest.mark.usefixtures("process")
def test_output_that_was_written_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda: print("text"), prints=True)
    assert capsys.readouterr() == ("text\n", "")


# Runs, with training and its report replaced.

config_of = cache(composed)  # composing takes most of the time

Calls = list[tuple[Any, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []
    for name in ("print_choices", "print_line", "print_result"):
        monkeypatch.setattr(f"descent.run.console.{name}", lambda *given, name=name: calls.append((name, *given)))
    return calls


def trains(monkeypatch: pytest.MonkeyPatch, calls: Calls, outcome: Result | Exception) -> None:
    def train(*given: Any, **named: Any) -> Result:
        calls.append(("train", *given, named))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("descent.run.train.train", train)


@pytest.mark.parametrize("brief", [True, False])
@pytest.mark.parametrize("status", ["completed", "diverged", "interrupted"])
def test_a_run_is_announced_trained_and_reported(
    status: Any,
    brief: bool,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    config, result = config_of(), Result(status, seed=0, command="")
    trains(monkeypatch, calls, result)
    frozen = gc.get_freeze_count()
    gc.disable()
    try:
        assert run_safely(lambda: config, tmp_path / "a b", "the line", **({"brief": True} if brief else {})) is result
        assert gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() == frozen  # torch was already imported
    how = {"resume": False, "longer": False, "on_start": None, "in_sweep": brief}
    assert calls == [
        *([] if brief else [("print_choices", config, tmp_path / "a b")]),
        ("train", config, tmp_path / "a b", "the line", how),
        ("print_line", result) if brief else ("print_result", result, tmp_path / "a b"),
    ]
    line = f"python scripts/resume.py '{tmp_path}/a b'   resumes this run\n"
    assert capsys.readouterr() == (line if status == "interrupted" else "", "")


@pytest.mark.parametrize("is_first", [True, False])
def test_objects_of_torch_are_frozen_for_the_garbage_collector(
    is_first: bool, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trains(monkeypatch, calls, Result("completed", seed=0, command=""))
    frozen: Calls = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(()))
    with monkeypatch.context() as patch:
        if is_first:
            patch.delitem(sys.modules, "torch")
        run_safely(config_of, tmp_path, "")
    assert len(frozen) == is_first


@pytest.mark.parametrize(
    "named", [{"resume": True}, {"longer": True}, {"on_start": nothing}], ids=lambda named: next(iter(named))
)
def test_how_a_run_begins_is_handed_on(
    named: dict[str, Any], calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trains(monkeypatch, calls, Result("completed", seed=0, command=""))
    run_safely(config_of, tmp_path, "", brief=True, **named)
    assert calls[0][-1] == {"resume": False, "longer": False, "on_start": None, "in_sweep": True} | named


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, bool]]:
    return [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records]


@pytest.mark.parametrize("error", [UserError("no\n such"), ValueError("x")], ids=repr)
def test_a_run_that_fails_is_a_result_and_its_traceback_is_in_the_log(
    error: Exception,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    trains(monkeypatch, calls, error)
    config = config_of("seed=7")
    caplog.set_level(logging.INFO)
    result = run_safely(lambda: config, tmp_path, "the line", brief=True)
    reason = "no such" if isinstance(error, UserError) else "ValueError: x"
    assert (result.status, result.seed, result.command, result.reason) == ("failed", 7, "the line", reason)
    where = [] if isinstance(error, UserError) else [("ERROR", f"the traceback is in {tmp_path}/train.log", False)]
    assert logged(caplog) == [("ERROR", f"error: {reason}", False), ("INFO", "The traceback:", True), *where]
    assert caplog.records[1].exc_info is not None and caplog.records[1].exc_info[1] is error
    assert not list(tmp_path.iterdir())  # train writes the result itself
    assert [call[0] for call in calls] == ["train"]


@pytest.mark.parametrize("error", [UserError("no\n such"), ValueError("x")], ids=repr)
def test_a_config_that_is_refused_is_a_result_too(
    error: Exception, calls: Calls, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    result = run_safely(fail(error), tmp_path, "the line")  # type: ignore[arg-type]
    reason = "no such" if isinstance(error, UserError) else "ValueError: x"
    assert (result.status, result.seed, result.command, result.reason) == ("failed", None, "the line", reason)
    written = json.loads((tmp_path / "result.json").read_text())
    assert [written[key] for key in ("status", "seed", "command", "reason")] == ["failed", None, "the line", reason]
    assert logged(caplog)[0] == ("ERROR", f"error: {reason}", False)
    assert calls == []


def test_a_result_that_cannot_be_written_does_not_hide_why_the_run_failed(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "file").touch()
    result = run_safely(fail(UserError("this")), tmp_path / "file", "")  # type: ignore[arg-type]
    assert result.reason == "this"


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("where", ["config", "training"])
def test_a_signal_fails_no_run(where: str, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(*given: Any, **named: Any) -> None:
        fail(ValueError("x"), 15)()

    monkeypatch.setattr("descent.run.train.train", train)
    configure: Any = fail(ValueError("x"), 15) if where == "config" else config_of
    with pytest.raises(SystemExit) as raised:
        run_safely(configure, tmp_path, "")
    assert raised.value.code == 128 + 15
    assert not list(tmp_path.iterdir())


def test_the_log_of_a_run_has_all_and_the_console_what_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log_to(tmp_path)
    try:
        log = logging.getLogger("mine.of_test")
        log.debug("too small")
        log.info("größer")
        log.warning("large")
        assert root.level == logging.INFO
    finally:
        for handler in root.handlers:
            handler.close()
    assert capsys.readouterr() == ("", "large\n")
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    time = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]"
    assert len(lines) == 2
    assert re.fullmatch(rf"{time}\[mine\.of_test\]\[INFO\] - größer", lines[0])
    assert re.fullmatch(rf"{time}\[mine\.of_test\]\[WARNING\] - large", lines[1])


LEAVING = """
import atexit, gc, sys
if "earlier" in sys.argv:
    atexit.register(print, "earlier")
from descent import signals
signals.install()
from descent.run.command import command
class LeftOpen:
    def __init__(self): self.itself = self
    def __del__(self): print("closed")
def main():
    gc.freeze()
    LeftOpen()
    ENDING
atexit.register(print, "library")
print("buffered")
gc.disable()
command(main)
"""


@pytest.mark.parametrize(("ending", "code"), [("pass", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("1 / 0", 1)])
def test_a_command_leaves_with_its_code_after_what_libraries_do_at_the_end(ending: str, code: int) -> None:
    command = [sys.executable, "-c", LEAVING.replace("ENDING", ending)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "buffered\nlibrary\nclosed\n")
    said = {"sys.exit('why')": "why\n", "1 / 0": "error: ZeroDivisionError: division by zero\n"}
    assert done.stderr == said.get(ending, "")


def test_a_command_leaves_in_pythons_own_way_where_something_else_listens_to_its_end() -> None:
    command = [sys.executable, "-c", LEAVING.replace("ENDING", "pass"), "earlier"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "buffered\nlibrary\nearlier\nclosed\n")

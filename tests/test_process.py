"""Tests signal handlers, protected output streams and the names of run directories."""

import errno
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import posix
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationResolutionError

from descent import signals
from descent.config.messages import one_line
from descent.run import run_dirs, streams
from descent.run.run_dirs import job_label

HANDLED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
NOTED = "\nstopping at the next step that can be resumed; press Ctrl-C again to quit now\n"


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Sets the default handlers, and restores the previous ones after the test."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in HANDLED}
    signals._received.clear()
    yield
    signals._received.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in HANDLED]


@pytest.mark.parametrize("number", HANDLED)
def test_an_installed_handler_exits_and_remembers_the_signal(number: signal.Signals) -> None:
    signals.install()
    assert handlers() == [signals.exit_at_once] * len(HANDLED)
    signals.exit_if_received()  # none was received
    for how in (lambda: signal.raise_signal(number), signals.exit_if_received, lambda: signals.deferred().__enter__()):
        with pytest.raises(SystemExit) as ended:
            how()
        assert ended.value.code == 128 + number
    assert handlers() == [signals.exit_at_once] * len(HANDLED)
    signals.ignore()
    assert handlers() == [signal.SIG_IGN] * len(HANDLED)


def test_the_latest_signal_decides_the_exit_code() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(SystemExit):
            signals.exit_at_once(number)
    with pytest.raises(SystemExit) as ended:
        signals.exit_if_received()
    assert ended.value.code == 143


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_only_an_ignored_sighup_stays_ignored() -> None:
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signals.install()
    assert handlers() == [signals.exit_at_once, signals.exit_at_once, signal.SIG_IGN]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.deferred() as pending:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(signals.Interrupted):
            for number in (signal.SIGHUP, signal.SIGINT):
                signal.raise_signal(number)
                pending.check()
    assert handlers() == [signal.SIG_IGN, signals.exit_at_once, signal.SIG_IGN]


@pytest.mark.parametrize("number", HANDLED)
def test_during_training_a_signal_is_deferred_and_the_next_one_exits(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with signals.deferred() as pending:
        pending.check()  # no signal yet
        assert pending.number is None
        signal.raise_signal(number)
        assert capsys.readouterr() == ("", NOTED)
        for _ in range(2):
            with pytest.raises(signals.Interrupted, match=rf"^interrupted by {number.name}$") as raised:
                pending.check()
            assert raised.value.number is number
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143 and pending.number == number
        assert capsys.readouterr() == ("", "")
    assert handlers() == [signal.SIG_DFL] * len(HANDLED)
    with signals.deferred() as another:
        assert another.number is None
    signals.exit_if_received()  # a deferred signal does not exit


def test_a_signal_is_deferred_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    with signals.deferred() as pending:
        signal.raise_signal(signal.SIGTERM)
        assert pending.number == signal.SIGTERM


def test_handlers_are_not_set_in_a_thread_and_are_restored_after_an_error() -> None:
    found: list[Any] = []

    def look() -> None:
        with signals.deferred():
            found.append(handlers())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[signal.SIG_DFL] * len(HANDLED)]
    with pytest.raises(ZeroDivisionError), signals.deferred():
        assert signal.SIG_DFL not in handlers()
        raise ZeroDivisionError
    assert handlers() == [signal.SIG_DFL] * len(HANDLED)


class Breaks(io.TextIOWrapper):
    """A file stream whose next writes and flushes fail with the given error numbers."""

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        super().__init__(path.open("wb"), encoding=encoding)
        self.writes: list[int] = []
        self.flushes: list[int] = []

    def write(self, text: str) -> int:
        if self.writes:
            number = self.writes.pop(0)
            raise OSError(number, os.strerror(number))
        return super().write(text)

    def flush(self) -> None:
        if self.flushes:
            number = self.flushes.pop(0)
            raise OSError(number, os.strerror(number))
        super().flush()


@contextmanager
def protected(path: Path) -> Iterator[Breaks]:
    """Replaces standard output by a ``Breaks`` stream and standard error by None, as if it was closed at start."""
    stream = Breaks(path, "ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", None)
        streams.protect()
        yield stream
        stream.writes, stream.flushes = [], []
        for each in (stream, sys.stderr):
            each.close()


def test_protected_streams_write_what_they_can(tmp_path: Path) -> None:
    with protected(tmp_path / "out"):
        assert sys.stdout.write("año\n") == 4
        print("to nobody", file=sys.stderr, flush=True)
        assert streams.lost() is None
        assert (tmp_path / "out").read_bytes() == b"a?o\n"
        assert sys.stdout.encoding == "ascii" and sys.stderr.encoding == "utf-8"


@pytest.mark.parametrize("how", ["writes", "flushes"])
@pytest.mark.parametrize(
    ("number", "lost"),
    [(errno.EPIPE, False), (errno.EIO, False), (errno.EBADF, False), (errno.ENOSPC, True), (errno.EFBIG, True)],
)
def test_output_counts_as_lost_only_if_a_reader_exists(how: str, number: int, lost: bool, tmp_path: Path) -> None:
    with protected(tmp_path / "out") as stream:
        setattr(stream, how, [number, errno.EPIPE if lost else errno.ENOSPC])  # the first error counts
        for text in ("one", "two"):
            sys.stdout.write(text)
            sys.stdout.flush()
        found = streams.lost()
    assert found == (os.strerror(number) if lost else None)
    assert (tmp_path / "out").read_bytes() == b""


@posix
def test_a_failure_of_the_last_flush_counts(tmp_path: Path) -> None:
    with protected(tmp_path / "out") as stream:
        open_files = len(os.listdir("/dev/fd"))  # noqa: PTH208
        stream.flushes = [errno.ENOSPC]
        assert streams.lost() == os.strerror(errno.ENOSPC)
        assert len(os.listdir("/dev/fd")) == open_files  # noqa: PTH208


def test_an_unprotected_stream_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert streams.lost() is None


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a registered resolver; restores the resolvers after the test."""
    monkeypatch.setattr(BaseContainer, "_resolvers", dict(BaseContainer._resolvers))
    monkeypatch.delenv("DESCENT_LOGS", raising=False)

    def resolve(name: str, *arguments: str) -> str:
        text = f"${{{name}:{','.join(arguments)}}}"
        return str(OmegaConf.create({"x": text, "none": None, "some": ["b=2", "+a=1", "name=n"], "empty": []}).x)

    return resolve


def test_directories_are_below_logs_with_unique_names(
    resolve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: f"<{form}>")
    unique = r"<%Y-%m-%d_%H-%M-%S>_[0-9a-f]{6}"
    monkeypatch.chdir(tmp_path)
    seen = set()
    for logs, environment in ((Path("my logs"), None), (tmp_path / "my logs", ""), (Path("other"), "my logs")):
        if environment is not None:
            monkeypatch.setenv("MOVED_LOGS", environment)
        run_dirs.register(logs)
        below = re.escape(str(tmp_path / "my logs"))
        for arguments, pattern in (
            (("run_dir", "${none}", "${some}", "MOVED_LOGS"), rf"{below}/runs/a=1,b=2_{unique}"),
            (("run_dir", "${none}", "${empty}", "MOVED_LOGS"), rf"{below}/runs/defaults_{unique}"),
            (("run_dir", "mine", "${some}", "MOVED_LOGS"), rf"{below}/runs/mine_{unique}"),
            (("run_dir", "0", "${some}", "MOVED_LOGS"), rf"{below}/runs/0_{unique}"),
            (("sweep_dir", "${none}", "MOVED_LOGS"), rf"{below}/sweeps/{unique}"),
            (("sweep_dir", "mine", "MOVED_LOGS"), rf"{below}/sweeps/mine"),
            (("sweep_dir", "0", "MOVED_LOGS"), rf"{below}/sweeps/0"),
            (("job_dir", "${some}"), r"a=1,b=2"),
        ):
            found = resolve(*arguments)
            assert re.fullmatch(pattern, found), found
        seen.add(resolve("sweep_dir", "${none}"))
        assert resolve("run_dir", "${none}", "${empty}").endswith(resolve("sweep_dir", "${none}")[-6:])
    assert len(seen) == 3


def test_a_train_yaml_without_a_variable_uses_the_default_one(
    resolve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dirs.register(tmp_path)
    monkeypatch.setenv(
        "DESCENT_" + "LOGS", str(tmp_path / "moved")
    )  # split, because a new project renames the whole word
    assert resolve("sweep_dir", "mine") == str(tmp_path / "moved/sweeps/mine")
    assert resolve("sweep_dir", "mine", "MOVED_LOGS") == str(tmp_path / "sweeps/mine")
    assert resolve("run_dir", "mine", "${empty}").startswith(str(tmp_path / "moved/runs/mine_"))


def test_an_invalid_name_is_refused(resolve: Any, tmp_path: Path) -> None:
    run_dirs.register(tmp_path)
    for arguments in (("run_dir", "'../x'", "${empty}"), ("sweep_dir", "'../x'")):
        with pytest.raises(InterpolationResolutionError) as raised:
            resolve(*arguments)
        assert one_line(raised.value) == (
            "name must be letters, digits, '.', '_', '=' and '-', beginning with a letter or digit, at most 100 bytes,"
            " got '../x'"
        )


def hashed(shown: str, text: str) -> str:
    return f"{shown}-{sha256(text.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "defaults"),
        (["name=x", "+name=x", "++name=x", "hydra.verbose=true", "++hydra.a=1"], "defaults"),
        (["trainer.enable_progress_bar=false"], "defaults"),
        (["names=x", "data.name=y"], "data.name=y,names=x"),
        (["+b=1", "++a=2", "~c"], "a=2,b=1,c"),
        (["optimizer.lr=1e-3"], "optimizer.lr=1e-3"),
        (["optimizer.lr=1e+3"], "optimizer.lr=1e+3"),
        ([f"a={'x' * 118}"], f"a={'x' * 118}"),
        ([f"a={'x' * 119}"], hashed(f"a={'x' * 109}", f"a={'x' * 119}")),
        (["predict_at=[[1, 2]]"], hashed("predict_at=_1,_2", "predict_at=[[1, 2]]")),
        (["a=é"], hashed("a=", "a=é")),
        (["a=b."], hashed("a=b", "a=b.")),
        (["._a=b"], hashed("a=b", "._a=b")),
    ],
)
def test_a_job_is_named_after_its_overrides(overrides: list[str], label: str) -> None:
    assert job_label(overrides) == label
    assert len(job_label(overrides)) <= 120

"""Tests the rules of a search and of a second round, and their messages."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_searching import PLANE, SPACE, launcher, trials_of
from test_sweeper import RATES, Launcher, outcome, sweeper  # noqa: F401  # a fixture

from descent.errors import UserError
from descent.run.result import Result
from descent.run.run_dirs import job_label, register
from descent.sweep.search_space import RANGE, check_search, text
from descent.sweep.searching import search
from descent.sweep.tuning import best_of_each, repeats_of

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore")  # Optuna leaves SQLite connections to the garbage collector


def losses(job: list[str], number: int) -> Result:
    return Result("completed", seed=0, command="", metrics={"val/loss": float(number), "optimum/excess_loss": 1.0})


@pytest.mark.parametrize(
    "limits",
    [
        *({"low": 1, "high": 1}, {"low": 2.0, "high": 1.0}, {"low": 1.0}, {"high": 1.0}, {}),
        *({"low": 1, "high": 2, "step": 1}, {"low": 1, "high": 2, "log": "x"}, {"low": 1, "high": 2, "log": 1}),
        *({"low": True, "high": 2}, {"low": 0, "high": True}, {"low": "a", "high": "b"}, {"low": 0, "high": 1e30}),
        *({"low": 0, "high": 1, "log": True}, {"low": -1.0, "high": 1, "log": True}),
        *({"low": 0.5, "high": 2, "int": True}, {"low": 0, "high": 2, "int": "x"}, [], [1], [1, 1], [1, [2]], "a"),
    ],
    ids=str,
)
def test_an_invalid_range_is_refused_with_the_rule(limits: Any) -> None:
    with pytest.raises(UserError) as raised:
        check_search([], {"optimizer.lr": limits}, 1, 0)
    assert str(raised.value) == f"hydra.sweeper.space.optimizer.lr must be {RANGE}, got {limits!r}"


def test_a_range_at_its_edge_is_accepted() -> None:
    ranges: list[Any] = [[1, 2], [None, "a", True, 0.5], {"low": 1, "high": 2, "log": True, "int": True}]
    ranges += [{"low": -1, "high": 0}, {"low": 0.0, "high": 1e-9, "log": False}, {"low": 1e-9, "high": 1, "log": True}]
    for limits in ranges:
        check_search(["batch=full", "+optimizer.eps=1", "seed=3"], {"optimizer.lr": limits}, 1, 2**32 - 1)


@pytest.mark.parametrize(
    ("arguments", "n_trials", "seed", "message"),
    [
        ([], 1.5, 0, "hydra.sweeper.n_trials must be a positive integer, got 1.5"),
        ([], 1, -1, "hydra.sweeper.seed must be an integer from 0 to 4294967295, got -1"),
        (["+optimizer.lr=1"], 1, 0, "optimizer.lr must be either set or in hydra.sweeper.space, got both"),
        (["seed=range(1,3)"], 1, 0, "seed must be a single value in a search, got 'range(1,3)'"),
    ],
)
def test_an_invalid_argument_of_a_search_is_refused_with_the_rule(
    arguments: list[str], n_trials: Any, seed: int, message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        search(arguments, lambda job, number: None, Path("none"), SPACE, n_trials, "val/loss", seed)


def test_without_optuna_the_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^a search needs optuna: pip install -c constraints.txt -e '\.\[optuna\]'$"):
        search([], launcher(tmp_path), tmp_path, SPACE, 1, "val/loss", 0)


def test_an_invalid_study_file_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all\n" * 100)
    with pytest.raises(UserError) as raised:
        search([], launcher(tmp_path), tmp_path, SPACE, 1, "val/loss", 0)
    text = str(raised.value)
    assert text.startswith(f"cannot use {tmp_path}/study.db: ") and len(text.splitlines()) == 1


def test_a_job_has_the_common_overrides_and_the_trials_values_in_six_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    jobs: list[tuple[int, list[str]]] = []
    checked: list[list[str]] = []

    def launch(asked: list[list[str]], number: int) -> None:
        (job,) = asked
        jobs.append((number, job))
        launcher(tmp_path, losses)(asked, number)

    space = dict(reversed(PLANE.items()))
    best = search(["seed=1", "batch=full"], launch, tmp_path, space, 2, "val/loss", 0, checked.append)
    assert checked == [jobs[0][1]]  # before it runs
    checked.clear()
    search(["batch=full", "seed=1"], launch, tmp_path, PLANE, 3, "val/loss", 0, checked.append)
    points = [params for *_, params, _ in trials_of(tmp_path)]
    parts = [
        [f"optimizer.lr={p['optimizer.lr']:.6g}", f"optimizer.momentum={p['optimizer.momentum']:.6g}"] for p in points
    ]
    assert [number for number, _ in jobs] == [0, 1, 2]
    assert [job for _, job in jobs] == [["seed=1", "batch=full", *part] for part in parts[:2]] + [
        ["batch=full", "seed=1", *parts[2]]
    ]
    assert checked == [["batch=full", "seed=1", *part] for part in parts[:2]]
    assert best == f"best val/loss 0 with {'  '.join(parts[0])}"
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert capsys.readouterr().out == ""
    assert [attributes for *_, attributes in trials_of(tmp_path)] == [
        {"run": job_label(job), "status": "completed"} for _, job in jobs
    ]
    with pytest.raises(UserError) as raised:
        search(["batch=full", "seed=1"], launch, tmp_path, SPACE, 4, "val/loss", 0)
    other = "['optimizer.lr', 'optimizer.momentum']; start a new one with name=..."
    assert str(raised.value) == f"the search in {tmp_path} uses space {other}"
    logarithmic = PLANE | {"optimizer.momentum": {"low": 0.1, "high": 0.9, "log": True}}
    with pytest.raises(UserError) as raised:
        search(["batch=full", "seed=1"], launch, tmp_path, logarithmic, 4, "val/loss", 0)
    other = "optimizer.momentum with log: false; start a new one with name=..."
    assert str(raised.value) == f"the search in {tmp_path} uses {other}"


def test_an_interrupted_trial_and_an_unknown_metric_are_refused_with_the_remedy(tmp_path: Path) -> None:
    interrupted = launcher(tmp_path, lambda job, number: Result("interrupted", seed=0, command=""))
    with pytest.raises(UserError, match=r"/optimizer\.lr=\S+ was interrupted; run the same command again to resume$"):
        search([], interrupted, tmp_path, SPACE, 1, "val/loss", 0)
    assert trials_of(tmp_path) == []
    with pytest.raises(
        UserError, match=r"choose_by must be a metric of the runs \(val/loss, optimum/excess_loss\), got 'val/mae'$"
    ):
        (tmp_path / "other").mkdir()
        search([], launcher(tmp_path / "other", losses), tmp_path / "other", SPACE, 1, "val/mae", 0)


def test_a_second_round_has_every_combination() -> None:
    repeats = repeats_of({"seed": "range(1,3)", "+x": "a,b"}, "optimizer", ["optimizer", "optimizer.lr"])
    assert repeats == [["seed=1", "+x=a"], ["seed=1", "+x=b"], ["seed=2", "+x=a"], ["seed=2", "+x=b"]]
    assert repeats_of({"batch.size": None, "figures": False}, "a", ["a"]) == [["batch.size=null", "figures=False"]]


@pytest.mark.parametrize(
    ("then", "for_each", "message"),
    [
        ({"seed": 1}, "batch", "for_each must be one of the swept keys if hydra.sweeper.then is set, got 'batch'"),
        ({"seed": 1, "name": "x"}, "a", "then must be keys other than name and a, got ['seed', 'name']"),
        ({"a": "x"}, "a", "then must be keys other than name and a, got ['a']"),
        ({"seed": "1,"}, "a", "then must be keys with values as in a sweep: "),
        ({"seed": "interval(0,1)"}, "a", "then must be keys with values as in a sweep: "),
    ],
)
def test_an_invalid_second_round_is_refused_with_the_rule(then: dict[str, Any], for_each: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(f'hydra.sweeper.{message}')}") as raised:
        repeats_of(then, for_each, ["a"])
    assert len(str(raised.value).splitlines()) == 1


def test_only_settings_with_all_jobs_completed_can_be_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = []
    for job, status, value in (
        *((["o=a", "+lr=1", "+seed=0"], "completed", 1.0), (["o=a", "+lr=1", "+seed=1"], "failed", 1.0)),
        *((["o=a", "+lr=2", "+seed=0"], "completed", 3.0), (["o=a", "+lr=2", "+seed=1"], "completed", 5.0)),
        *((["o=a", "+lr=3", "+seed=0"], "completed", 2.0), (["o=b", "+lr=1", "+seed=0"], "diverged", 2.0)),
        (["o=c", "+lr=1", "+seed=0"], "completed", None),
    ):
        (tmp_path / job_label(job)).mkdir()
        metrics = {} if value is None else {"val/loss": value, "val/r2": value}
        Result(status, seed=0, command="", metrics=metrics).write(tmp_path / job_label(job))  # type: ignore[arg-type]
        jobs.append(job)
    assert best_of_each("o", "val/loss", tmp_path, jobs, {"seed"}) == [("o=a", "+lr=3")]
    assert capsys.readouterr().out.splitlines() == [
        f"o={group} is not repeated: none of its settings completed with val/loss" for group in "bc"
    ]
    assert best_of_each("o", "val/r2", tmp_path, jobs, {"seed"}, "max") == [("o=a", "+lr=2")]


def test_the_sweepers_keys_have_these_defaults(tmp_path: Path) -> None:
    register(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = OmegaConf.to_container(compose("train", return_hydra_config=True).hydra, resolve=False)
    assert hydra["sweeper"] == {  # type: ignore[index, call-overload]
        "_target_": "hydra_plugins.descent.resuming.ResumingSweeper",
        **{"max_batch_size": None, "params": None, "for_each": None, "choose_by": None, "mode": None, "then": None},
        **{"space": None, "n_trials": None, "seed": 0},
    }
    launcher = {"_target_": "hydra_plugins.descent.resuming.ResumingLauncher"}
    assert hydra["launcher"] == launcher  # type: ignore[index, call-overload]


@pytest.mark.parametrize("where", ["second round", "search"])
def test_an_interrupted_second_round_or_search_lists_unfinished_jobs(
    where: str,
    sweeper: Any,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs: list[str] = []

    def stops(job: list[str]) -> Result | None:
        jobs.append(job_label(job))
        if job[-1] == "seed=6" or (where == "search" and len(jobs) == 2):
            raise SystemExit(130)
        return losses(job, 0) if where == "search" else outcome(job)

    round_two = {"params": {"optimizer": "adam", **RATES}, "for_each": "optimizer", "then": {"seed": "5,6,7"}}
    made, _ = sweeper(stops, **({"space": SPACE} if where == "search" else round_two))
    with pytest.raises(SystemExit):
        made.sweep([])
    left = capsys.readouterr().out.split("not finished:\n")[1].splitlines()
    more = [] if where == "search" else ["  " + jobs[-1].replace("seed=6", "seed=7")]
    assert left == [f"  {jobs[-1]}", *more, "  run the same command again to resume"]


def test_a_resumed_search_checks_its_earlier_trials(sweeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from hydra_plugins.descent import resuming  # Hydra reimports its plugins when it scans for them

    checked: list[list[str]] = []
    plain = Launcher(Path("s"), lambda job: losses(job, 0))
    own = resuming.ResumingLauncher()
    monkeypatch.setattr(own, "launch", plain.launch)
    monkeypatch.setattr(own, "check", checked.append)
    for n_trials in (1, 2):
        made, _ = sweeper(space=SPACE, n_trials=n_trials)
        made.launcher = own
        made.sweep(["batch=full"])
    assert [",".join(job) for job in checked] == [plain.launched[0][1]] * 2  # before it runs and in the second sweep
    assert [number for number, _ in plain.launched] == [0, 1]


@pytest.mark.parametrize(
    "value",
    [
        "sgd",
        "a b",
        "a, b",
        "1",
        "1e-3",
        "true",
        "null",
        "",
        "[a]",
        "it's",
        "a'b\\'c",
        "a\\",
        "x=y",
        "data/a.csv",
        0.1234567891,
        3,
        None,
        True,
    ],
)
def test_a_listed_value_is_the_same_value_in_the_override(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"key={text(value, [value, 'other'])}")
    found = override.value()
    assert found == value and type(found) is type(value) and not override.is_sweep_override()


WIDTHS = {"model.width": {"low": 4, "high": 64, "log": True, "int": True}, "optimizer": ["sgd", "adam", None]}


def test_whole_numbers_and_listed_values_are_searched_and_continue(tmp_path: Path) -> None:
    jobs: list[list[str]] = []

    def launch(asked: list[list[str]], number: int) -> None:
        jobs.extend(asked)
        launcher(tmp_path, losses)(asked, number)

    best = search([], launch, tmp_path, WIDTHS, 6, "val/loss", 0)
    search([], launch, tmp_path, WIDTHS, 9, "val/loss", 0)
    assert len(jobs) == 9
    assert all(re.fullmatch(r"model\.width=\d+", width) for width, _ in jobs)
    assert all(4 <= int(width.partition("=")[2]) <= 64 for width, _ in jobs)
    assert {optimizer for _, optimizer in jobs} == {"optimizer=sgd", "optimizer=adam", "optimizer=null"}
    assert best == f"best val/loss 0 with {'  '.join(jobs[0])}"


@pytest.mark.parametrize(
    ("changed", "before"),
    [
        ({"model.width": {"low": 4, "high": 64, "log": True}}, "model.width with int: true, log: true"),
        ({"model.width": {"low": 4, "high": 64, "int": True}}, "model.width with int: true, log: true"),
        ({"optimizer": ["sgd", "adam"]}, "optimizer with ['sgd', 'adam', null]"),
    ],
)
def test_a_study_is_not_continued_with_other_kinds_of_values(
    changed: dict[str, Any], before: str, tmp_path: Path
) -> None:
    search([], launcher(tmp_path, losses), tmp_path, WIDTHS, 1, "val/loss", 0)
    with pytest.raises(UserError) as raised:
        search([], launcher(tmp_path, losses), tmp_path, WIDTHS | changed, 2, "val/loss", 0)
    assert str(raised.value) == f"the search in {tmp_path} uses {before}; start a new one with name=..."


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("model.width must be an integer, got 4.5", "; int: true in hydra.sweeper.space searches whole numbers"),
        ("model.width is not a key", ""),
    ],
)
def test_a_space_whose_first_job_is_invalid_runs_nothing(message: str, shown: str, tmp_path: Path) -> None:
    def check(job: list[str]) -> None:
        raise UserError(message)

    with pytest.raises(UserError, match=f"^{re.escape(message + shown)}$"):
        search([], launcher(tmp_path, losses), tmp_path, SPACE, 3, "val/loss", 0, check)
    assert not [*tmp_path.glob("*/result.json")]

"""Tests the way from Hydra's command line to a run: printing, refusals, arguments and exit codes."""

import argparse
import pickle
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CONF, config_of
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from descent.config import loader
from descent.config.schema import Config, tree_of
from descent.errors import UserError
from descent.run import cli
from descent.run.result import Result

Calls = list[tuple[Any, ...]]


@pytest.mark.parametrize(
    ("arguments", "prints"),
    [
        ([], False),
        (["seed=1"], False),
        (["-m", "seed=1,2"], False),
        (["--help"], True),
        (["--hydra-help"], True),
        (["--cfg", "job"], True),
        (["--info"], True),
        (["--info", "config"], True),
        (["-sc", "install=bash"], True),
    ],
    ids=str,
)
def test_commands_that_only_print_are_recognised(
    arguments: list[str], prints: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: Calls = []

    def run(main: Callable[[], None], prints: bool) -> None:
        done.append(("command", prints))
        main()

    monkeypatch.setattr(cli, "command", run)
    monkeypatch.setattr(cli, "help_text", lambda conf: f"help of {conf}")
    monkeypatch.setattr(
        "descent.config.loader.install", lambda conf, given: done.append(("install", conf, given.overrides))
    )
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    cli.run(lambda: done.append(("main",)), CONF)
    overrides = [argument for argument in arguments if "=" in argument]
    rest = [] if "--help" in arguments else [("install", CONF, overrides), ("main",)]
    assert done == [("command", prints), *rest]
    assert capsys.readouterr().out == (f"help of {CONF}\n" if "--help" in arguments else "")


@pytest.mark.parametrize(
    ("arguments", "overrides", "multirun", "cfg"),
    [
        (["seed=1", "-m", "batch=full,mini"], ["seed=1", "batch=full,mini"], True, None),
        (["-m", "seed=1", "--cfg", "job", "batch=full"], ["seed=1", "batch=full"], True, "job"),
        (["--cfg", "all", "seed=1"], ["seed=1"], False, "all"),
        (["seed=1", "--multirun"], ["seed=1"], True, None),
        (["seed=1", "--info"], ["seed=1"], False, None),  # --info may have no value
        (["--cfg", "job", "job"], ["job"], False, "job"),
        (["seed=1", "--cfg", "job", "--", "batch=full"], ["seed=1", "batch=full"], False, "job"),
        ([], [], False, None),
    ],
    ids=str,
)
def test_flags_may_stand_among_the_overrides(
    arguments: list[str], overrides: list[str], multirun: bool, cfg: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[argparse.Namespace] = []
    monkeypatch.setattr("descent.config.loader.install", lambda conf, given: done.append(given))
    monkeypatch.setattr(cli, "command", lambda main, prints: main())
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    cli.run(lambda: done.append(get_args_parser().parse_args()), CONF)  # as hydra.main does
    for given in done:
        assert (given.overrides, given.multirun, given.cfg) == (overrides, multirun, cfg)
    assert len(done) == 2 and sys.argv[0] == "train.py"


def test_an_unknown_flag_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--fast"])
    with pytest.raises(SystemExit) as raised:
        cli.run(lambda: None, CONF)
    assert raised.value.code == "error: unrecognized arguments: --fast: --hydra-help lists the flags"


@pytest.mark.parametrize(
    ("mode", "status", "code"),
    [
        (RunMode.RUN, "completed", None),
        (RunMode.RUN, "diverged", 3),
        (RunMode.RUN, "failed", 1),
        (RunMode.MULTIRUN, "completed", None),
        (RunMode.MULTIRUN, "diverged", None),
        (RunMode.MULTIRUN, "failed", None),
    ],
)
def test_a_sweeps_job_resumes_and_does_not_exit_the_process(
    mode: RunMode, status: Any, code: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, done = Result(status, seed=0, command=""), []
    runtime = SimpleNamespace(output_dir=str(tmp_path / "out"), choices={}, cwd="/")
    node = SimpleNamespace(mode=mode, runtime=runtime, overrides=SimpleNamespace(task=["a=1", "b='x y'"]))
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: node)
    monkeypatch.setattr(cli, "to_config", lambda *given: given)

    def run(configure: Callable[[], Config], *given: Any, **named: Any) -> Result:
        done.append((configure(), *given, named))
        return result

    monkeypatch.setattr(cli, "run_safely", run)
    cfg = OmegaConf.create({})
    if code is None:
        assert cli.run_job(cfg) is result
    else:
        with pytest.raises(SystemExit) as raised:
            cli.run_job(cfg)
        assert raised.value.code == code
    sweep = mode == RunMode.MULTIRUN
    line = "python scripts/train.py a=1 " + shlex.quote("b='x y'")
    assert done == [((cfg, runtime, ["a=1", "b='x y'"]), tmp_path / "out", line, {"resume": sweep, "brief": sweep})]


def test_the_choices_of_a_config_exclude_hydras_groups() -> None:
    runtime = SimpleNamespace(choices={"hydra/launcher": "basic", "optimizer": "sgd", "debug": None}, cwd="/")
    for group in (
        "data",
        "model",
        "scheduler",
        "batch",
        "clip",
        "stopping",
        "trainer",
        "callbacks",
        "logger",
        "experiment",
    ):
        runtime.choices[group] = "one"
    plain = OmegaConf.create(config_tree())
    found = cli.to_config(plain, runtime)
    assert "hydra/launcher" not in found.choices and "debug" not in found.choices
    assert (found.choices["optimizer"], found.choices["experiment"], len(found.choices)) == ("sgd", "one", 11)
    for group in ("data", "model", "optimizer", "scheduler", "batch", "clip", "stopping", "trainer", "debug"):
        kept = runtime.choices.pop(group)
        with pytest.raises(UserError) as raised:
            cli.to_config(plain, runtime)
        assert str(raised.value) == f"{group} must be one option: -m {group}=... runs several, one after another"
        runtime.choices[group] = kept


def config_tree() -> dict[str, Any]:
    tree = tree_of(config_of())
    return {key: value for key, value in tree.items() if key not in ("choices", "links", "predict_at", "figures")}


def command_line(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"experimental_rerun": None, "config_path": None, "overrides": [], "multirun": False} | given
    )


@pytest.fixture
def hydras_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores Hydra's own classes that ``install`` replaces."""
    monkeypatch.setattr("hydra._internal.hydra.ConfigLoaderImpl", ConfigLoaderImpl)
    monkeypatch.setattr(loader.Loader, "conf", CONF, raising=False)
    monkeypatch.setattr(loader.Loader, "is_sweep", False, raising=False)


@pytest.mark.usefixtures("hydras_own")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"experimental_rerun": "x.pickle"},
            "--experimental-rerun must not be given: it runs code from a pickle; resume.py resumes runs",
        ),
        (
            {"experimental_rerun": ""},
            "--experimental-rerun must not be given: it runs code from a pickle; resume.py resumes runs",
        ),
        (
            {"config_path": "pkg://a"},
            "--config-path must be directories on the command line, not a package, which would be imported, got 'pkg://a'",
        ),
        (
            {"overrides": [f"a={'[{' * 25}[1]{'}]' * 25}"]},
            f"a must be nested at most 50 deep, got 'a={'[{' * 19}...'",
        ),
        (
            {"overrides": ["seed=1", f"name={'x' * 9_996}"]},
            "name must be at most 10,000 characters long on the command line; a YAML file in conf/ may hold more,"
            f" got 'name={'x' * 35}...'",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unsafe_arguments_are_refused_before_composing(given: dict[str, Any], message: str) -> None:
    import hydra._internal.hydra as internals

    with pytest.raises(UserError) as raised:
        loader.install(CONF, command_line(**given))
    assert str(raised.value) == message
    assert internals.ConfigLoaderImpl is ConfigLoaderImpl  # type: ignore[attr-defined]


@pytest.mark.usefixtures("hydras_own")
@pytest.mark.parametrize("multirun", [True, False])
def test_install_replaces_hydras_loader(multirun: bool) -> None:
    import hydra._internal.hydra as internals

    longest = f"name={'x' * 9_995}"
    deepest = f"a={'[{' * 25}1{'}]' * 25},[{{}}]"
    given = command_line(multirun=multirun, config_path="conf", overrides=[longest, deepest])
    loader.install(CONF / "x", given)
    assert internals.ConfigLoaderImpl is loader.Loader  # type: ignore[attr-defined]
    assert (loader.Loader.conf, loader.Loader.is_sweep) == (CONF / "x", multirun)


class Counting(loader.Loader):
    """Counts how often it composes a config."""

    def _load_configuration_impl(self, *given: Any, **named: Any) -> Any:
        self.composed = getattr(self, "composed", 0) + 1
        return super()._load_configuration_impl(*given, **named)  # type: ignore[misc]


@pytest.fixture
def hydra(hydras_own: None) -> Iterator[Hydra]:
    made = Hydra(task_name="x", config_loader=Counting(create_automatic_config_search_path(None, None, str(CONF))))
    yield made
    GlobalHydra.instance().clear()


def test_the_config_of_a_single_run_is_composed_once_and_used_once(hydra: Any) -> None:
    loader, overrides = hydra.config_loader, ["seed=5"]
    assert hydra.get_mode("train", overrides) is None
    assert loader.composed == 1
    given = ["seed=5", "hydra.mode=RUN"]
    assert loader.load_configuration("train", given, RunMode.RUN).seed == 5
    assert loader.composed == 1
    assert loader.load_configuration("train", given, RunMode.RUN).seed == 5  # a caller may have changed the first
    assert loader.composed == 2
    for name, changed, mode in (
        ("train", ["seed=6", "hydra.mode=RUN"], RunMode.RUN),
        ("train", ["seed=5", "hydra.mode=RUN"], RunMode.MULTIRUN),
    ):
        hydra.get_mode("train", overrides)
        before = loader.composed
        found = loader.load_configuration(name, changed, mode)
        assert loader.composed == before + 1 and found.seed == int(changed[0][-1])


def test_the_mode_comes_from_the_config(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hydra.get_mode("train", ["hydra.mode=RUN"]) == RunMode.RUN
    hydra.config_loader.kept = None
    assert hydra.get_mode("train", ["hydra.mode=MULTIRUN", "optimizer=sgd"]) == RunMode.MULTIRUN
    assert hydra.config_loader.kept is None  # each job is composed separately
    composed = hydra.config_loader.composed
    for bad, message in (("+hydra.sweeper.a=3", r"^hydra\.sweeper\.a needs a sweep: add -m$"), ("a.b=1", "a.b")):
        assert hydra.get_mode("train", [bad]) is None  # Hydra hides the error here; the run raises it
        with pytest.raises((UserError, HydraException), match=message):
            hydra.config_loader.load_configuration("train", [bad, "hydra.mode=RUN"], RunMode.RUN)
    assert hydra.config_loader.composed == composed + 2
    monkeypatch.setattr(hydra.config_loader, "is_sweep", True)
    composed = hydra.config_loader.composed
    assert hydra.get_mode("train", []) is None  # -m already decides
    assert hydra.config_loader.composed == composed


JOBS = (
    (["optimizer=adam", "optimizer.lr=0.1", "seed=1"], 1),
    (["optimizer=adam", "optimizer.lr=1", "seed=1"], 0),  # Hydra reads an integer
    (["optimizer=adam", "optimizer.lr=-1e-3", "seed=2"], 0),
    (["optimizer=adam", "optimizer.lr=null", "seed=2"], 1),
    (["optimizer=adam", "optimizer.lr=true", "seed=2"], 1),  # in Python True is a number
    (["optimizer=adam", "optimizer.lr='0.1'", "seed=2"], 1),
    (["optimizer=sgd", "optimizer.lr=0.1", "seed=2"], 1),
    (["optimizer=sgd", "optimizer.lr=0.1", "seed=3", "name=7"], 1),
    (["optimizer=sgd", "optimizer.lr=0.1", "seed=3", "name=8"], 0),
    (["optimizer=sgd", "optimizer.lr=0.1", "+optimizer.foreach=8"], 1),
    (["optimizer=sgd", "optimizer.lr=0.1", "+optimizer.foreach=9"], 1),
    (["trainer.max_epochs=1", "trainer.max_epochs=2"], 1),
    (["trainer.max_epochs=3", "trainer.max_epochs=4"], 1),  # their order matters
    (["checkpoint.every_steps=1", "checkpoint={every_steps: null}"], 1),
    (["checkpoint.every_steps=2", "checkpoint={every_steps: null}"], 1),
    (["data.seed=1", "data.seed=${seed}"], 1),
    (["data.seed=2", "data.seed=${seed}"], 1),
    (["optimizer=adam", "optimizer.lr=0.2", "seed=9"], 0),  # like the first
)


def test_jobs_that_differ_only_in_numbers_are_composed_once_and_correctly(hydra: Any) -> None:
    loader, mode = hydra.config_loader, RunMode.RUN
    alone = type(loader)(create_automatic_config_search_path(None, None, str(CONF)))
    loader.is_sweep, loader.composed = True, 0
    for job, composed in JOBS:
        before = loader.composed
        given = [*job, "hydra.mode=RUN"]
        found, expected = (of.load_configuration("train", given, mode) for of in (loader, alone))
        assert loader.composed - before == composed, job
        same = [OmegaConf.to_container(config, resolve=False) for config in (found, expected)]
        assert same[0] == same[1] and repr(same[0]) == repr(same[1])  # repr tells 1 from 1.0
        assert OmegaConf.is_struct(found)
        found.seed = 99  # must not change later jobs


def test_the_number_of_templates_is_bounded_and_none_is_pickled(hydra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "TEMPLATES", 1)
    found = hydra.config_loader
    found.is_sweep = True
    for job, composed in ((["seed=1"], 1), (["name=1"], 2), (["name=2"], 2), (["seed=2"], 3)):
        found.load_configuration("train", job, RunMode.RUN)
        assert (found.composed, len(found.templates)) == (composed, 1)
    assert pickle.loads(pickle.dumps(found)).templates == {}


@pytest.mark.parametrize("job", ["nope=1", "optimizer.nope=1", "batch=3", "optimizer=3"])
def test_a_number_for_an_unknown_key_or_group_is_refused_each_time(job: str, hydra: Any) -> None:
    loader = hydra.config_loader
    loader.is_sweep = True
    for number in ("", "1"):
        with pytest.raises((HydraException, ValueError)):
            loader.load_configuration("train", [f"{job}{number}"], RunMode.RUN)


def test_the_loader_refuses_forbidden_hydra_keys(hydra: Any) -> None:
    loader = hydra.config_loader
    with pytest.raises(UserError, match=r"^hydra\.run\.dir must stay as"):
        loader.load_configuration("train", ["hydra.run.dir=x"], RunMode.RUN)
    with pytest.raises(UserError) as raised:
        loader.load_configuration("train", ["hydra.searchpath=[pkg://a]"], RunMode.RUN)
    assert str(raised.value) == (
        "hydra.searchpath must be directories on the command line, not a package, which would be imported, got ['pkg://a']"
    )
    assert loader.load_configuration("train", [f"hydra.searchpath=[{CONF}]"], RunMode.RUN).seed == 0
    assert "hydra" in loader.load_configuration(None, [], RunMode.RUN)  # for Hydra's own help text

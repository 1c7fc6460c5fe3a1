"""Tests what TensorBoard shows for real runs, in headless Chromium."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import config_of

from descent.run.train import train
from descent.training.logger import RunLogger

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")

# The text of a page, including shadow roots
TEXT = """
const text = (node) => [...node.childNodes].map((child) =>
  child.nodeType === Node.TEXT_NODE ? child.textContent :
  ['STYLE', 'SCRIPT'].includes(child.tagName) ? '' :
  text(child.shadowRoot || child) + (child.shadowRoot ? text(child) : '')).join(' ');
return text(document.body);
"""
IMAGES = """
const all = (node) => [...node.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
const drawn = (e) => e.tagName === 'IMG' && e.naturalWidth > 0 && e.src.includes('individualImage');
return all(document).filter(drawn).length;
"""


@contextmanager
def served(logs: Path) -> Iterator[str]:
    """Runs a TensorBoard over ``logs`` and yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", "0", "--load_fast", "false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+/", line):
                yield found[0]
                break
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard over four runs with one feature."""
    logs = tmp_path_factory.mktemp("logs")
    for optimizer in ("sgd", "adam"):
        for seed in (0, 1):
            overrides = [f"optimizer={optimizer}", f"seed={seed}", "clip=norm", "data.num_features=1"]
            train(config_of("trainer.enable_progress_bar=false", *overrides), logs / f"{optimizer}-{seed}")
    with served(logs) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1600,1200"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def shows(browser: Any, *texts: str, seconds: float = 60) -> str:
    """Waits until the page shows all of ``texts``, and returns its text."""
    until = time.monotonic() + seconds
    while True:
        page: str = browser.execute_script(TEXT)
        missing = [text for text in texts if text not in page]
        if not missing:
            return page
        assert time.monotonic() < until, f"{missing} not in: {page[:2000]}"
        time.sleep(0.5)


def test_scalars_show_losses_gradients_and_the_optimum(address: str, browser: Any) -> None:
    browser.get(f"{address}#scalars&tagFilter=loss%7Cgrad%2Fnorm")  # a page shows at most a dozen charts
    shows(browser, "train/loss", "val/loss", "grad/norm_clipped", "optimum/excess_loss", "adam-0", "sgd-1")


def test_custom_scalars_overlay_losses_and_gradient_norms(address: str, browser: Any) -> None:
    browser.get(f"{address}#custom_scalars")
    shows(browser, "training and validation loss", "gradient norm before and after clipping")


def test_hparams_shows_hyperparameters_and_final_metrics(address: str, browser: Any) -> None:
    browser.get(f"{address}#hparams")
    shows(browser, "optimizer.lr", "val/loss", "adam", "sgd")


CARDS = """
const all = (node) => [...node.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
const text = (e) => e.shadowRoot ? e.getAttribute('tag') ?? e.tag : e.textContent.replace(/\\s/g, '');
return all(document).filter((e) => ['CARD-VIEW', 'TF-SCALAR-CARD'].includes(e.tagName))
  .map((e) => [text(e), e.getBoundingClientRect().top]);
"""


@pytest.mark.parametrize("dashboard", ["timeseries", "scalars"])
def test_the_first_two_cards_are_training_and_validation_loss(dashboard: str, address: str, browser: Any) -> None:
    browser.get(f"{address}#{dashboard}")
    browser.refresh()
    shows(browser, "Loss", "/train", "/val")
    (first, top), (second, beside) = browser.execute_script(CARDS)[:2]
    assert "Loss/train" in first and "Loss/val" in second
    assert top == beside < 400


def test_hparams_sorts_100_runs_by_a_final_metric(tmp_path: Path) -> None:
    for number in range(100):
        logger = RunLogger(tmp_path / f"run-{number}")
        logger.log_hyperparams({"optimizer": "sgd", "optimizer.lr": 0.1}, {"hp/val_loss": number * 37 % 101}, step=1)
        logger.close()
    with served(tmp_path) as address:
        values = sorted_metric(address, "hp/val_loss", 100)
    assert len(values) == 100
    assert values == sorted(values)


def sorted_metric(address: str, tag: str, runs: int) -> list[float]:
    """Returns a metric of all runs in the order of HParams sorted by it; waits for ``runs`` values."""
    query = {
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": {"tag": tag, "group": ""}, "order": "ORDER_ASC"}],
        **{"startIndex": 0, "sliceSize": 200},
    }
    request = urllib.request.Request(
        f"{address}data/plugin/hparams/session_groups", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    until = time.monotonic() + 60
    values: list[float] = []
    while len(values) < runs and time.monotonic() < until:
        with urllib.request.urlopen(request) as answer:
            groups = json.load(answer)["sessionGroups"]
        metrics = [{m["name"]["tag"]: m["value"] for m in group["metricValues"]} for group in groups]
        values = [metric[tag] for metric in metrics if tag in metric]
        time.sleep(0.5)
    return values


def test_images_show_the_fit_the_predictions_and_the_path(address: str, browser: Any) -> None:
    browser.get(f"{address}#images")
    shows(browser, "figures")
    until = time.monotonic() + 60
    while browser.execute_script(IMAGES) < 3:
        assert time.monotonic() < until, shows(browser)[:2000]
        time.sleep(0.5)


def test_the_figures_are_also_in_the_run_directory(address: str, tmp_path: Path) -> None:
    train(config_of("trainer.enable_progress_bar=false", "data.num_features=1"), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run/figures").iterdir()} == {"fit.png", "path.png", "predicted.png"}

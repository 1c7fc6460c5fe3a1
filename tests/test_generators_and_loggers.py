"""Tests random states of mocked accelerators, and Lightning's loggers and warnings."""

import logging
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from descent.run.libraries import quiet_libraries
from descent.training.random_state import random_state, set_random_state

CUDA = [torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)]
MPS = torch.tensor([3], dtype=torch.uint8)


@pytest.fixture
def put_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Mocks accelerators, and lists the states that are restored to them."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: CUDA)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append((state, device)))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: MPS)
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: given.append((state,)))
    return given


@pytest.mark.parametrize("devices", [0, 1, 2, 3])
def test_every_available_accelerator_gets_its_own_state_back(
    devices: int, put_back: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    state = random_state()
    assert state["cuda"] == CUDA and state["mps"] is MPS
    set_random_state(state)
    assert put_back == [*[(CUDA[0], 0), (CUDA[1], 1)][:devices], (MPS,)]
    put_back.clear()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    set_random_state(state)
    set_random_state(state | {"mps": None})
    assert put_back == [(CUDA[0], 0), (CUDA[1], 1)][:devices] * 2


def test_a_state_without_accelerators_does_not_change_accelerators(
    put_back: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for place in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(place, "is_available", lambda: False)
    state = random_state()
    assert (state["cuda"], state["mps"]) == ([], None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    set_random_state(state)
    assert put_back == []


def test_the_random_state_is_a_copy_in_plain_values() -> None:
    np.random.randn()
    random.gauss(0, 1)
    state = random_state()
    assert set(state) == {"torch", "cuda", "mps", "numpy", "python"}
    assert torch.equal(state["torch"], torch.get_rng_state())
    _, key, position, has_gauss, gauss = np.random.get_state()
    kept = state["numpy"]
    assert (kept["bit_generator"], kept["has_gauss"], kept["gauss"]) == ("MT19937", has_gauss, gauss) and has_gauss
    assert (kept["state"]["key"].tolist(), kept["state"]["pos"]) == (key.tolist(), position)
    version, words, second = random.getstate()
    assert state["python"] == [version, list(words), second] and second is not None
    np.random.rand()
    assert kept["state"]["key"].tolist() == key.tolist()


def test_lightnings_loggers_propagate_to_the_callers_handlers(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    handlers: list[logging.Handler] = [logging.NullHandler(), logging.NullHandler()]
    try:
        for level, logger in enumerate(loggers, 31):
            logger.handlers[:] = handlers
            logger.propagate = False
            logger.setLevel(level)
        for error in (None, KeyError, KeyboardInterrupt):
            caplog.clear()
            try:
                with quiet_libraries():
                    for level, logger in enumerate(loggers, 31):
                        assert (logger.handlers, logger.propagate, logger.level) == ([], True, level)
                        logger.error("from %s", logger.name)
                        logger.addHandler(logging.NullHandler())
                        logger.setLevel(0)
                    if error is not None:
                        raise error
            except (KeyError, KeyboardInterrupt) as raised:
                assert type(raised) is error
            assert caplog.messages == ["from lightning", "from lightning.pytorch", "from lightning.fabric"]
            for level, logger in enumerate(loggers, 31):
                assert (logger.handlers, logger.propagate, logger.level) == (handlers, False, level)
    finally:
        for logger, (own, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = own, propagate
            logger.setLevel(level)


WARNED = [
    ("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, False),
    ("`isinstance(treespec, LeafSpec)` is deprecated", UserWarning, True),
    ("The `srun` command is available on your system but is not used. HINT: ...", UserWarning, False),
    ("The `srun` command is available on your system but is not used. HINT: ...", FutureWarning, True),
    ("Checkpoint directory /a b/c exists and is not empty.", UserWarning, False),
    ("Checkpoint directory /a b/c exists and is not empty.", FutureWarning, True),
    ("The number of training batches (5) is smaller than the logging interval Trainer(...)", UserWarning, False),
    ("The number of training batches (5) is smaller than the logging interval Trainer(...)", FutureWarning, True),
    ("another", FutureWarning, True),
    ("another", UserWarning, True),
]


@pytest.mark.parametrize(("message", "category", "shown"), WARNED)
def test_only_known_library_warnings_are_hidden(message: str, category: type[Warning], shown: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn(message, category, stacklevel=1)
        assert len(caught) == shown
        warnings.warn(message, category, stacklevel=1)
        assert len(caught) == shown + 1

"""Groups of the config that a project's model and data take nothing of."""

from pathlib import Path

import pytest
from conftest import Run, config_of

from descent.config.hparams import flat_hparams, unused_groups


def test_the_example_takes_something_of_every_group() -> None:
    assert unused_groups(config_of("scheduler=cosine")) == []


def test_a_group_that_nothing_takes_anything_of_is_said_and_is_no_hyperparameter(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = "model.optimizer={_target_: torch.optim.SGD, lr: 0.01}", "data.batch_size=16", "data.shuffle=true"
    config = config_of(*fixed)
    assert unused_groups(config) == ["optimizer", "batch"]
    assert not [key for key in flat_hparams(config) if key.startswith(("optimizer", "batch"))]
    run(*fixed, "data.num_samples=60", "trainer.max_epochs=1")
    assert "note: neither model nor data take anything of optimizer and batch" in caplog.text

"""Tests notes on config groups and keys that a project does not use."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CONF, Run, config_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from descent.config.hparams import flat_hparams, notes_on_unused, unused_groups
from descent.config.identity import config_digest
from descent.config.unused import unused_keys


def test_the_example_uses_every_group() -> None:
    assert unused_groups(config_of("scheduler=cosine")) == []


def test_an_unused_group_is_noted_and_is_not_a_hyperparameter(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = "model.optimizer={_target_: torch.optim.SGD, lr: 0.01}", "data.batch_size=16", "data.shuffle=true"
    config = config_of(*fixed)
    assert unused_groups(config) == ["optimizer", "batch"]
    assert not [key for key in flat_hparams(config) if key.startswith(("optimizer", "batch"))]
    run(*fixed, "data.num_samples=60", "trainer.max_epochs=1")
    assert "note: model and data do not use optimizer and batch" in caplog.text


ONLY_RATE = "model.optimizer={_target_: torch.optim.SGD, lr: '${optimizer.lr}'}"
NOTE = (
    "note: {0} has no effect: no interpolation in the config uses it (${{{0}}} in the YAML file of the"
    " model, the data or a callback would)"
)


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["batch.shuffle=false", "data.shuffle=true"], ["batch.shuffle"]),
        (["callbacks=none", "predict_at=[[1]]", "figures=false"], ["predict_at", "figures"]),
        (["callbacks=none", "optimizer.lr=0.1", ONLY_RATE], []),
        (["callbacks=none", "+optimizer.momentum=0.9", ONLY_RATE], ["optimizer.momentum"]),
        (
            [
                "callbacks=none",
                "debug=fast_dev_run",
                "batch=stochastic",
                "seed=1",
                "clip=norm",
                "checkpoint.every_steps=3",
            ],
            [],
        ),
        (["callbacks=none", "predict_at=[[1]]", "name='a${predict_at[0]}'"], []),
        (["callbacks=none", "predict_at=[4]", "data.seed=${oc.select:predict_at.0,3}"], []),
        (["batch.size=8", "data.batch_size=${..batch.size}"], []),
        (["callbacks=none", "predict_at=[3]", "data.seed=${ predict_at.0 }"], []),
        (["callbacks=none", "predict_at=[3]", "data.seed=${oc.select: predict_at.0, 3}"], []),
        (["callbacks=none", "predict_at=[3]", "data.seed=${[predict_at][0]}"], []),
        (["+mine={a: 1, b: '${.a}', c: 3}", "mine.a=2", "mine.c=4", "data.seed=${mine.b}"], ["mine.c"]),
        (["callbacks=none", "predict_at=[]", "+optimizer.nesterov=true", "~optimizer.nesterov"], ["predict_at"]),
        (
            [
                "callbacks=none",
                "figures=7",
                "+callbacks.a={_target_: lightning.pytorch.Callback, b: [[a, '${figures}']]}",
            ],
            [],
        ),
        (["scheduler=one_cycle", "scheduler.max_lr=0.1", "predict_at=[[1,2,3,4,5]]", "batch.shuffle=false"], []),
    ],
)
def test_given_but_unused_keys_are_found(overrides: list[str], unused: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", overrides, return_hydra_config=True)
    runtime = composed.hydra.runtime
    assert (
        unused_keys(OmegaConf.masked_copy(composed, [*{*composed} - {"hydra"}]), runtime.choices, overrides) == unused
    )


def test_a_given_but_unused_key_is_noted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    small = "data.num_samples=60", "trainer.max_epochs=1"
    run(*small, "batch.shuffle=false", "data.shuffle=true")
    run(*small, "predict_at=[[1,2,3,4,5]]", "batch.shuffle=false")
    assert [text for text in caplog.messages if "has no effect" in text] == [NOTE.format("batch.shuffle")]
    caplog.clear()
    config = config_of("batch.shuffle=false", "data.shuffle=true", "data.batch_size=16")
    assert config.unused == ["batch.shuffle"]
    (note,) = notes_on_unused(config)
    assert note.startswith("model and data do not use batch:")
    assert config_digest(config_of("predict_at=[[1]]", "callbacks=none")) == config_digest(
        replace(config_of("predict_at=[[1]]", "callbacks=none"), unused=[])
    )

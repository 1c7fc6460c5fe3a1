"""Registers the sweeper and the launcher with Hydra. Their code is in ``descent.sweep``."""

from hydra.core.config_store import ConfigStore

from descent.sweep import launcher, sweeper


class ResumingSweeper(sweeper.ResumingSweeper):
    """See ``descent.sweep.sweeper``."""


class ResumingLauncher(launcher.ResumingLauncher):
    """See ``descent.sweep.launcher``."""


_store = ConfigStore.instance()
_package = f"{__name__}."
_store.store(
    group="hydra/sweeper",
    name="resuming",
    node={
        "_target_": f"{_package}ResumingSweeper",
        **{"max_batch_size": None, "params": None, "for_each": None, "choose_by": None, "mode": None, "then": None},
        **{"space": None, "n_trials": None, "seed": 0},
    },
)
_store.store(group="hydra/launcher", name="resuming", node={"_target_": f"{_package}ResumingLauncher"})

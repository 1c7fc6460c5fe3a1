"""Train one model, or a sweep with -m. --help lists what can be set."""

import gc

from descent import signals

signals.install()  # before the slow imports: Ctrl-C then ends them without a traceback
gc.disable()  # until training: imports and composing leave no garbage, and the search for it takes a fifth of the time

from pathlib import Path  # noqa: E402

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from descent.run import cli, run_dirs  # noqa: E402
from descent.run.result import Result  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
run_dirs.register(ROOT / "logs")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> Result:
    return cli.run_job(cfg)


if __name__ == "__main__":
    cli.run(main, ROOT / "conf")

"""Train one model, or a sweep with -m. See --help for what can be set."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from descent import cli, run_dirs

ROOT = Path(__file__).resolve().parents[1]
run_dirs.register(ROOT / "logs")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    cli.run_job(cfg)


if __name__ == "__main__":
    cli.run(main, ROOT / "conf")

"""Train one model, or a sweep with -m. See --help for what can be set."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from descent import cli, run_dirs
from descent.result import Result

run_dirs.register(Path(__file__).parents[1] / "logs")
results: list[Result] = []


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    results.append(cli.run_job(cfg))


if __name__ == "__main__":
    cli.run(main)
    sys.exit(cli.exit_code(results))

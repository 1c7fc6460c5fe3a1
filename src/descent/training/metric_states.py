"""The states of torchmetrics' metrics in a module."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric, MetricCollection

States = Mapping[str, Mapping[str, Any]]  # by the metric's name in the module


def metric_states(pl_module: LightningModule) -> States:
    """Copies of the states of the metrics that have been updated since their last reset."""
    if not any(isinstance(module, Metric) and module.update_count for module in pl_module.modules()):
        return {}
    return {
        name: {"state": {key: _copied(value) for key, value in metric.metric_state.items()}, "updates": count}
        for name, metric in _metrics_of(pl_module)
        if (count := metric.update_count)
    }


def set_metric_states(pl_module: LightningModule, states: States) -> None:
    """Puts such states back; what has been updated and has none is reset."""
    for name, module in pl_module.named_modules():
        if not isinstance(module, Metric):
            continue
        if saved := states.get(name):
            for key, value in saved["state"].items():
                setattr(module, key, _copied(value, module.device))
            module._update_count = saved["updates"]  # it has no setter
        elif module.update_count:
            module.reset()


def _metrics_of(pl_module: LightningModule) -> Iterator[tuple[str, Metric]]:
    for name, module in pl_module.named_modules():
        if isinstance(module, MetricCollection):
            module.items()  # of several with one state only the first has what is new
        elif isinstance(module, Metric):
            yield name, module


def _copied(value: Any, device: torch.device | None = None) -> Any:
    if isinstance(value, list):
        return [_copied(part, device) for part in value]
    assert isinstance(value, Tensor)
    return value.detach().to(device or value.device, copy=True)

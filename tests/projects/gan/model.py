"""A generative adversarial network: two optimizers and manual optimization."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy


def network(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(), nn.Linear(width, outputs))


class GAN(LightningModule):
    def __init__(self, lr: float = 0.01, width: int = 16, noise: int = 3) -> None:
        super().__init__()
        self.lr, self.noise = lr, noise
        self.automatic_optimization = False
        self.generator = network(noise, width, 2)
        self.discriminator = network(2, width, 1)

    def sample(self, count: int) -> Tensor:
        """Points (count, 2)."""
        points: Tensor = self.generator(torch.randn(count, self.noise, device=self.device))
        return points

    def training_step(self, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        generator, discriminator = self.optimizers()
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)

        fake = self.sample(len(real)).detach()
        d_loss = cross_entropy(self.discriminator(real), ones) + cross_entropy(self.discriminator(fake), zeros)
        discriminator.zero_grad()
        self.manual_backward(d_loss)
        discriminator.step()

        g_loss = cross_entropy(self.discriminator(self.sample(len(real))), ones)
        generator.zero_grad()
        self.manual_backward(g_loss)
        generator.step()
        self.log_dict({"train/d_loss": d_loss, "train/g_loss": g_loss}, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        self.log("val/distance", (self.sample(len(real)).norm(dim=1) - real.norm(dim=1).mean()).abs().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        self.log("test/distance", (self.sample(len(real)).norm(dim=1) - real.norm(dim=1).mean()).abs().mean())

    def configure_optimizers(self) -> Any:
        generator = torch.optim.Adam(self.generator.parameters(), lr=self.lr, betas=(0.5, 0.999))
        discriminator = torch.optim.SGD(self.discriminator.parameters(), lr=self.lr, momentum=0.9)
        schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (generator, discriminator)]
        return [generator, discriminator], schedulers

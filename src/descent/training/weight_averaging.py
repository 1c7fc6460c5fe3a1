"""Lightning's ``StochasticWeightAveraging``, with modules that make their layers late."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from descent.errors import UserError
from descent.training.sparse_callback import callbacks_of

NEEDED = (
    "StochasticWeightAveraging needs the layers of {} to be made in __init__ or configure_model: it copies the module"
    " before its setup"
)


class LayersBeforeAveraging(Callback):
    """Stands before ``StochasticWeightAveraging``, which copies the module in ``setup``, before ``configure_model``.

    Of layers that are not there yet it would average nothing, without a word.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        try:
            with trainer.init_module():
                pl_module.configure_model()  # Lightning calls it again, and asks that this does nothing
        except AttributeError as error:  # what setup would make
            raise UserError(f"{NEEDED.format(type(pl_module).__name__)} ({error})") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for averaging in callbacks_of(trainer, StochasticWeightAveraging):
            if averaging.state_dict()["average_model_state"].keys() != pl_module.state_dict().keys():
                raise UserError(NEEDED.format(type(pl_module).__name__))

"""Everything that decides a run, as frozen data that is checked when it is made."""

from dataclasses import dataclass, field

from deepcnn.checked import Section
from deepcnn.errors import ConfigError
from deepcnn.sections import Augment, Data, Hardware, Model, Optim, Train, Transfer

__all__ = [
    "SECTIONS", "Augment", "Config", "Data", "Hardware", "Model", "Optim", "Train", "Transfer",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A whole run. The same `Config` on the same build and hardware gives the same bits."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    transfer: Transfer = field(default_factory=Transfer)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            value = getattr(self.data, name)
            if value > 1 and value != int(value):
                raise ConfigError(
                    f"data.{name} is {value}, expected a share below 1 or a whole number of images"
                )
        if len(self.data.mean) != len(self.data.std):
            raise ConfigError(
                f"data.mean has {len(self.data.mean)} numbers and data.std {len(self.data.std)}: "
                "give both, one number for each channel"
            )
        if self.data.sure < 1 and self.data.views == "plain":
            raise ConfigError(
                "data.sure saves other views than the image itself, which data.views plain has not "
                "got: set data.views, or leave data.sure at 1"
            )
        if self.transfer.unfreeze_at and not self.transfer.freeze:
            raise ConfigError(
                "transfer.unfreeze_at needs frozen stages: set transfer.freeze, to head or a stage"
            )
        if self.optim.nesterov and not self.optim.momentum:
            raise ConfigError("optim.nesterov needs momentum: set optim.momentum above 0")
        if self.optim.milestones and self.optim.schedule != "step":
            raise ConfigError(
                f"optim.milestones belongs to optim.schedule step, not {self.optim.schedule}: "
                "set --optim.schedule step or leave the milestones out"
            )
        if self.train.hardest < 1 and (self.augment.mixup or self.augment.cutmix):
            raise ConfigError(
                "train.hardest goes by the loss of each image, and augment.mixup and cutmix mix "
                "them: set them to 0, or train.hardest to 1"
            )
        if self.train.accumulate > self.train.batch_size:
            raise ConfigError(
                f"train.accumulate is {self.train.accumulate}, more than the "
                f"{self.train.batch_size} images of a batch: lower it or raise train.batch_size"
            )


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "transfer": Transfer,
    "augment": Augment,
    "optim": Optim,
    "train": Train,
    "hardware": Hardware,
}

"""Fine-tuning: all settings for a set of pictures that nobody has tuned for, from its size and the
weights that are begun with.
"""

from dataclasses import replace
from pathlib import Path

from deepcnn.config import Augment, Config, Data, Model, Optim, Train, Transfer
from deepcnn.data import catalog, pictures
from deepcnn.errors import DataError
from deepcnn.models.pretrained import find_weights

# Training images. With fewer than the first the last layer alone is fitted, to all of them: on 158
# photos of ants and bees that was better than five epochs of every kind tried (docs/log.md). Where
# more is asked for, more are held out, so that it can be told whether it was of use. With fewer
# than the second, mild crops and more epochs.
VERY_FEW, FEW = 500, 2_000
EPOCHS = 5  # for few images
LARGEST_BATCH = 32  # images; of fewer than twice as many, half


def plan(data: str, model: str, weights: str) -> Config:
    """Settings that fine-tune a network on `data`: a linear probe, then, with enough images, stage
    by stage from the last to the first, slower ones for earlier stages, the best on validation
    images kept, which may be the probe.

    `model` and `weights` as `find_weights` takes them; images are prepared as its weights need it.
    Raises ConfigError or DataError for what cannot be had, before any image is read.
    """
    number = num_images(data)
    very_few, few = number < VERY_FEW, number < FEW
    found = find_weights(model, weights)
    return Config(
        data=Data(
            name=data, validation=0 if very_few else 0.1,
            size=found.side, keep=found.crop, interpolation=found.interpolation,
            mean=found.mean, std=found.std,
        ),
        model=Model(
            name=model, weights=weights, origin=f"{found.source}; licence: {found.licence}"
        ),
        transfer=Transfer(probe=True, freeze="head", unfreeze_at=0.5, stage_decay=0.7),
        augment=Augment(flip="random", crop_area=0.5 if few else 0.2),
        optim=Optim(name="adamw", lr=2e-4, weight_decay=0.01, schedule="cosine", warmup=0.1),
        train=Train(
            epochs=0 if very_few else EPOCHS if few else 3,
            batch_size=min(LARGEST_BATCH, -(-number // 2)),
            label_smoothing=0.1,
            keep="last" if very_few else "best",
        ),
    )  # fmt: skip


def with_updates(probe: Config) -> Config:
    """The plan for very few images where updates are asked for: the better of both is kept."""
    return replace(
        probe,
        data=replace(probe.data, validation=0.2),
        train=replace(probe.train, epochs=EPOCHS, keep="best"),
    )


def num_images(data: str) -> int:
    """How many images there are to learn from and to hold out, at most."""
    if data not in catalog.CATALOG and not Path(data).expanduser().exists():
        raise DataError(f"{data} is not there; expected a folder or CSV file of pictures")
    if catalog.is_pictures(data):
        splits = pictures.list_source(Data(name=data)).splits
        return sum(split in ("train", "") for split in splits)
    return FEW

"""The settings of a run, section by section, each checked by itself when it is made."""

from dataclasses import dataclass

from deepcnn.checked import Section, setting
from deepcnn.sizes import limit


@dataclass(frozen=True)
class Data(Section):
    """What is learnt from, and how a picture becomes numbers."""

    name: str = setting(
        "fashion-mnist",
        "catalogue name; folder or CSV file of pictures; folder in IDX or CIFAR layout",
    )
    root: str = setting("", "folder to look for data sets in first")
    validation: float = setting(
        0.1, "training images held out, by class, for decisions: share or number", at_least=0
    )
    test: float = setting(
        0.1, "images held out for the test of data without a test set: share or number", at_least=0
    )
    group: str = setting(
        "", "what is held out together: expression found in the path, or CSV column"
    )
    on_bad: str = setting(
        "stop",
        "bad pictures: stop, skip them, or read those that end too early as far as they go",
        choices=("stop", "skip", "read"),
    )
    size: int = setting(
        0,
        "side in pixels that images are resized to; 0: their own, 224 where they differ",
        at_least=0,
        at_most=4_096,
    )
    geometry: str = setting(
        "crop",
        "how pictures become square: their centre, squashed, or with bars",
        choices=("crop", "squash", "letterbox"),
    )
    keep: float = setting(
        1.0, "share of the short side that geometry crop keeps", at_least=0.1, at_most=1
    )
    interpolation: str = setting(
        "bilinear", "how pictures are resized", choices=("bilinear", "bicubic")
    )
    mean: tuple[float, ...] = setting(
        (), "mean of pixels in [0, 1] by channel, to subtract; none: as pixels says"
    )
    std: tuple[float, ...] = setting((), "deviation likewise, to divide by", above=0)
    pad: int = setting(
        0, "pixels of background added on every side after resizing", at_least=0, at_most=512
    )
    views: str = setting(
        "plain",
        "views of an image that are averaged when the model is tested and used: itself; also its "
        "mirror image; also both moved by a pixel either way",
        choices=("plain", "flip", "flip_shift"),
    )
    sure: float = setting(
        1.0,
        "probability from which the answer to an image itself stands, without its other views; 1: "
        "never",
        above=0,
        at_most=1,
    )
    pixels: str = setting(
        "standardized",
        "scale: mean 0 and deviation 1 by channel, [0, 1], or [0, 255]",
        choices=("standardized", "unit", "raw"),
    )


@dataclass(frozen=True)
class Model(Section):
    """The network and its first weights."""

    name: str = setting("compact", "network; `deepcnn models` lists them")
    init: str = setting("default", "initialiser of convolutions and linear layers")
    weights: str = setting(
        "", "safetensors file, name or `default` of published weights to begin with; none: drawn"
    )
    origin: str = setting("", "where those weights come from, and their licence; for the record")


@dataclass(frozen=True)
class Transfer(Section):
    """How a network that has learnt before goes on learning. A stage is a part of it by name."""

    probe: bool = setting(False, "fit the last layer to what it sees of the training images first")
    freeze: str = setting("", "stage before which nothing trains, or head; none: all trains")
    unfreeze_at: float = setting(
        0.0,
        "share of the run by which all stages train, one after another from the last; 0: never",
        at_least=0,
        at_most=1,
    )
    stage_decay: float = setting(
        1.0, "learning rate of each stage as a share of the next one's", above=0, at_most=1
    )


@dataclass(frozen=True)
class Augment(Section):
    """Random changes to training images, drawn anew for each image in each epoch."""

    flip: str = setting(
        "none",
        "mirror left-right: at random, or every image in every other epoch",
        choices=("none", "random", "alternating"),
    )
    crop: int = setting(
        0, "pixels of background put around an image before a random crop", at_least=0, at_most=64
    )
    flip_vertical: bool = setting(False, "mirror top-bottom at random")
    crop_area: float = setting(
        0.0, "smallest share of the area that a random crop keeps; 0: off", at_least=0, at_most=1
    )
    rotate: float = setting(0.0, "largest turn either way, in degrees", at_least=0, at_most=180)
    zoom: float = setting(0.0, "largest enlargement or reduction, as a share", at_least=0, below=1)
    brightness: float = setting(0.0, "largest change, as a share", at_least=0, at_most=10)
    contrast: float = setting(0.0, "largest change, as a share", at_least=0, at_most=10)
    saturation: float = setting(0.0, "largest change, as a share; RGB", at_least=0, at_most=10)
    hue: float = setting(
        0.0, "largest turn, as a share of the colour circle; RGB", at_least=0, at_most=0.5
    )
    pca_noise: float = setting(
        0.0, "deviation of AlexNet's colour noise (there 0.1)", at_least=0, at_most=100
    )
    erase: float = setting(0.0, "probability of a black rectangle", at_least=0, at_most=1)
    policy: str = setting(
        "none",
        "random operations: two of middling strength, or one of any strength",
        choices=("none", "randaugment", "trivialaugment"),
    )
    small_until: float = setting(
        0.0,
        "share of the run, from its start, in which images have three quarters of their side",
        at_least=0,
        at_most=1,
    )
    mixup: float = setting(0.0, "alpha of Beta, for mixup; 0: off", at_least=0, at_most=100)
    cutmix: float = setting(0.0, "alpha of Beta, for CutMix; 0: off", at_least=0, at_most=100)


@dataclass(frozen=True)
class Optim(Section):
    """The update rule and the course of the learning rate."""

    name: str = setting(
        "sgd",
        "update rule; muon is for convolutions before a norm, and SGD for the rest",
        choices=("sgd", "adamw", "muon"),
    )
    lr: float = setting(0.1, "highest learning rate", above=0, at_most=1e6)
    bias_factor: float = setting(
        1.0, "learning rate of norms and biases, as a multiple", above=0, at_most=1e4
    )
    head_factor: float = setting(
        1.0, "learning rate of the last layer's weights, as a multiple", above=0, at_most=1e4
    )
    momentum: float = setting(0.9, "momentum of SGD and Muon", at_least=0, below=1)
    nesterov: bool = setting(False, "Nesterov's form of SGD's momentum; Muon always has it")
    weight_decay: float = setting(
        0.0, "L2 penalty; not on norms and biases, nor on what Muon updates", at_least=0
    )
    l1: float = setting(0.0, "L1 penalty; not on norms and biases", at_least=0)
    schedule: str = setting(
        "constant",
        "learning rate over the run, after warm-up",
        choices=("constant", "step", "cosine", "triangular"),
    )
    warmup: float = setting(
        0.0, "share of the run over which the rate rises from 0", at_least=0, below=1
    )
    milestones: tuple[float, ...] = setting(
        (), "shares of the run at which schedule `step` divides the rate by 10", above=0, below=1
    )
    clip_norm: float = setting(0.0, "largest gradient norm; 0: any", at_least=0)
    whiten_until: float = setting(
        1.0,
        "share of the run in which the bias of a whitening layer is trained; after it no gradient "
        "comes back to that layer",
        above=0,
        at_most=1,
    )


@dataclass(frozen=True)
class Train(Section):
    """How long, in which portions, and what is kept."""

    epochs: int = setting(10, "passes over the training set", at_least=0, at_most=100_000)
    budget: float = setting(0.0, "seconds of the whole command, instead of epochs", at_least=0)
    batch_size: int = setting(128, "images per update", at_least=1)
    accumulate: int = setting(
        1, "pieces that a batch is computed in, to save memory; same update", at_least=1
    )
    hardest: float = setting(
        1.0,
        "share of the training images that epochs after the first learn from, mostly those with "
        "the highest loss when last seen",
        above=0,
        at_most=1,
    )
    drop_last: bool = setting(False, "leave out the last, smaller batch of an epoch")
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", at_least=0, below=1
    )
    ema: float = setting(
        0.0,
        "decay per update of averaged weights, used for the final model; 0: off",
        at_least=0,
        below=1,
    )
    class_weights: bool = setting(
        False, "count each class alike in the loss, however few images it has"
    )
    keep: str = setting(
        "last",
        "weights of the finished model: the last, or the best on validation images",
        choices=("last", "best"),
    )
    patience: int = setting(
        0, "epochs without a better validation accuracy after which to stop; 0: any", at_least=0
    )
    test_each_epoch: bool = setting(
        False, "measure test accuracy after each epoch, as the texts do (else once, at the end)"
    )
    seed: int = setting(0, "decides weights, order, augmentation", at_least=0, at_most=2**63 - 1)
    checkpoint_seconds: float = setting(
        60.0, "longest time between checkpoints; 0: one after every update", at_least=0
    )


@dataclass(frozen=True)
class Hardware(Section):
    """What the arithmetic runs on; `auto` measures and records its choice."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = setting(
        "auto", "number format of products", choices=("auto", "fp32", "bf16", "fp16")
    )
    layout: str = setting(
        "auto", "order of images in memory", choices=("auto", "contiguous", "channels_last")
    )
    threads: int = setting(0, "threads of the CPU; 0: measured", at_least=0, at_most=4_096)
    policy: str = setting(
        "measured",
        "how what is auto is found: by measuring training steps; or off: it is fp32, "
        "contiguous, all cores",
        choices=("measured", "off"),
    )
    memory: str = setting("", "most that a run may take, such as 8GiB; none: what is free")

    def __post_init__(self) -> None:
        super().__post_init__()
        limit(self.memory)

"""What a diagnosis can find: what is normal, the likely cause, the change to try."""

from collections.abc import Iterable
from typing import NamedTuple

from deepcnn.data.findings import KINDS as OF_DATA


class Kind(NamedTuple):
    """What is wrong, what is normal, what is the likely cause, and what to try."""

    title: str
    normal: str
    cause: str
    change: str


KINDS = {  # a cause stands before what it brings about
    "non-finite": Kind(
        "values that are no numbers",
        "all values are finite",
        "a division by zero, a logarithm or root of what is not positive, or too large weights",
        "look at the layer named, and at its weights; --hardware.precision fp32",
    ),
    "input-constant": Kind(
        "input that is constant",
        "every channel differs from pixel to pixel and from image to image",
        "images were written or read wrongly, such as a channel that was never filled",
        "look at the images: deepcnn data show; write them anew",
    ),
    "input-scale": Kind(
        "input that is not normalised",
        "mean near 0 and deviation near 1 in each channel; [0, 1] will do",
        "pixels in [0, 255], or data.mean and data.std for pixels in [0, 255], where [0, 1] counts",
        "--data.pixels standardized, without data.mean and data.std",
    ),
    "channels-swapped": Kind(
        "colour channels in another order",
        "means of channels agree in order",
        "images were written as BGR and are read as RGB, or the other way round",
        "write all images as RGB",
    ),
    "frozen": Kind(
        "no parameter that trains",
        "parameters of at least the last layer get gradients",
        "all were frozen, or the network computes without gradients",
        "requires_grad_(True) for what is to train, and no torch.no_grad in forward",
    ),
    "cut-off": Kind(
        "layers without a gradient",
        "every parameter that is to train gets one",
        "their output is detached, or not used at all",
        "no detach, .data or torch.no_grad in forward; leave out what is not used",
    ),
    "softmax-twice": Kind(
        "softmax applied twice",
        "logits are of either sign, and their sum is any number",
        "the network ends in a softmax, and the loss applies its own",
        "leave the softmax out of the network",
    ),
    "logits-limited": Kind(
        "logits that are never negative",
        "logits are of either sign",
        "an activation such as ReLU or sigmoid stands behind the last layer",
        "leave the last activation out of the network",
    ),
    "norm-in-training": Kind(
        "batch norm in evaluation mode while training",
        "in training it goes by the statistics of the batch",
        "eval() is called on it, or train() does not reach it",
        "let model.train() put every layer into training mode",
    ),
    "norm-in-evaluation": Kind(
        "answers that depend on the other images of a batch",
        "in evaluation every image is answered by itself, the same every time",
        "batch norm goes by the statistics of the batch, or dropout is on, in evaluation too",
        "let model.eval() reach every layer; batch norm with track_running_stats=True",
    ),
    "small-batch": Kind(
        "too small a batch for batch norm",
        "at least 8 images in each piece of a batch",
        "statistics of so few images are noise, and those kept for evaluation are others",
        "a larger --train.batch_size, or a lower --train.accumulate",
    ),
    "exploding": Kind(
        "signals or gradients that explode",
        "each layer keeps the scale, k near 1",
        "first weights that are too large for the number of inputs of a layer",
        "--model.init he or unit-variance, or a network with batch norm",
    ),
    "vanishing": Kind(
        "signals or gradients that vanish",
        "each layer keeps the scale, k near 1",
        "first weights that are too small, or sigmoids one behind the other",
        "--model.init he or unit-variance, ReLU, or a network with batch norm",
    ),
    "dead": Kind(
        "dead ReLU units",
        "nearly every unit is above 0 for some image",
        "biases far below 0, or first weights that leave no signal",
        "biases of 0: --model.init he; a lower --optim.lr, if they died in training",
    ),
    "same-answer": Kind(
        "the same answer to every image",
        "logits differ from image to image",
        "weights of a layer are all zero or all equal, or a ReLU lets nothing through",
        "draw the first weights at random: --model.init he",
    ),
    "loss-at-start": Kind(
        "a first loss that is too high",
        "before training all classes are alike, and the loss is the logarithm of their number",
        "first weights of the last layer are too large, so that it is sure and wrong",
        "smaller first weights there: --model.init he or glorot",
    ),
    "leak": Kind(
        OF_DATA["leak"].title,
        "no image is in more than one split",
        "what is measured on them is memory, not skill",
        "deepcnn data check shows which; keep each in one split only",
    ),
    "two-labels": Kind(
        OF_DATA["two-labels"].title,
        "an image has one label",
        "nothing can be learnt from contradictions",
        "deepcnn data check shows which; decide on one label for each",
    ),
    "label-leak": Kind(
        "labels that reach the network with the images",
        "labels drawn at random cannot be predicted for images not seen before",
        "the code that reads or changes images lets the label show in them",
        "look at what is done to images on their way: deepcnn data show --augment",
    ),
    "rate-too-high": Kind(
        "too high a learning rate",
        "the loss falls, units stay alive, an update changes weights by about a thousandth",
        "updates overshoot, and grow or kill what was learnt",
        "a lower --optim.lr",
    ),
    "rate-too-low": Kind(
        "too low a learning rate",
        "an update changes weights by about a thousandth",
        "updates are too small to get anywhere",
        "a higher --optim.lr",
    ),
    "decay": Kind(
        "weights that decay faster than they learn",
        "optim.lr times optim.weight_decay is about 0.0001",
        "too strong a penalty",
        "--optim.weight_decay 0.0005, --optim.l1 0",
    ),
    "norm-statistics": Kind(
        "batch norm with statistics that are not those of the images",
        "what is learnt in training mode is known in evaluation mode",
        "running statistics move too slowly or not at all: their momentum is wrong",
        "the default momentum of batch norm, 0.1",
    ),
    "not-by-heart": Kind(
        "a few images that cannot be learnt by heart",
        "any sound network learns fifty images by heart: text 003",
        "the network is too small, or something in it is wrong",
        "a larger network: --model.name; look for mistakes in its code",
    ),
    "labels-unrelated": Kind(
        "labels that have nothing to do with the images",
        "what is learnt from some training images helps with others",
        "labels are in another order than the images",
        "look at images with their labels: deepcnn data show; write the labels anew",
    ),
    "empty-class": Kind(
        OF_DATA["empty-class"].title,
        "each class has training images",
        "the class was forgotten, or its name differs between splits",
        "add images, or take the class out",
    ),
    "missing-class": Kind(
        OF_DATA["missing-class"].title,
        "each class has images in each split",
        "too few images are held out, or the class was forgotten",
        "add images, or hold out more: --data.validation, --data.test",
    ),
    "imbalance": Kind(
        OF_DATA["imbalance"].title,
        "no class has ten times the images of another one",
        "to answer with a large class costs little, and accuracy hides it",
        "--train.class_weights true; more images of the small classes",
    ),
}


class Finding(NamedTuple):
    """Something that is wrong: one of KINDS, what was measured, and what more there is to try."""

    kind: str
    measured: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """All there is to say of it."""
        kind = KINDS[self.kind]
        change = f"{kind.change}{'; ' * bool(self.advice)}{self.advice}"
        about = {"title": kind.title, "measured": self.measured, "normal": kind.normal}
        return {"kind": self.kind, **about, "cause": kind.cause, "change": change}


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The most likely cause first; of each kind the first finding."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.kind, finding)
    return [first[kind] for kind in KINDS if kind in first]

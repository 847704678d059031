"""What an update lowers: the loss of a batch, with its penalties."""

from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn.data.loader import Batch
from deepcnn.data.preprocess import resize
from deepcnn.optim import l1_norm
from deepcnn.run import Run


def forward(run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch with its penalties, and the logits N K in fp32."""
    config, model = run.config, run.state.model
    with run.watch.during("copying"):
        images = run.policy.arrange(resize(batch.images, run.side()))
    with run.policy.autocast():
        outputs = model(images)
    answers = [each.float() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]
    loss, *of_heads = (mean_loss(logits, batch, run) for logits in answers)
    if of_heads:  # as in GoogLeNet: classifiers half-way, in training only
        loss = loss + cast(float, model.auxiliary_weight) * torch.stack(of_heads).sum()
    if config.optim.l1:
        loss = loss + config.optim.l1 * l1_norm(model)
    # LeNet-5 has a further logit in training, for a class that no image belongs to.
    return loss, answers[0][:, : len(run.splits.train.classes)]


def mean_loss(logits: Tensor, batch: Batch, run: Run) -> Tensor:
    """The mean cross-entropy of a batch; of mixed images, with both labels by their shares."""
    loss = partial(F.cross_entropy, logits, label_smoothing=run.config.train.label_smoothing)
    if run.config.train.class_weights:
        # Each image's own weight, 1 in the mean over the training set, not in that of the batch.
        loss = partial(loss, weight=run.class_weights(logits))
    elif batch.share is None:
        return loss(batch.labels)
    own = loss(batch.labels, reduction="none")
    if batch.share is None or batch.partner_labels is None:
        return own.mean()
    partners = loss(batch.partner_labels, reduction="none")
    return (batch.share * own + (1 - batch.share) * partners).mean()

"""Cards of this package's own networks."""

from deepcnn.models.card import Card

COMPACT = Card(
    title="this package's own network for small images",
    year=2026,
    paper="deepcnn",
    input=(1, 28),
    classes=10,
    reported=("Fashion-MNIST test 91.81 % after 3 epochs, mean of 5 seeds: docs/results.md",),
    training=("recipe fashion-mnist",),
)
ALEXNET28 = Card(
    title="AlexNet's plan at half its width, for 28x28 images: an exercise's answer",
    year=2026,
    paper="deepcnn; the exercise: Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2019, 6.7",
    input=(1, 28),
    classes=10,
    reported=("Fashion-MNIST test 90.52 % after 5 epochs, one seed: docs/results.md",),
    training=("recipe alexnet28-fashion-mnist",),
    differences=(
        "alexnet-d2l: an 11x11 convolution of stride 4 on images enlarged to 224x224; here 5x5, "
        "stride 1, on the images as they are",
        "alexnet-d2l: twice the maps, four times the hidden units",
    ),
)
SPRINT = Card(
    title="this package's own network for a good answer in a second",
    year=2026,
    paper="deepcnn",
    input=(1, 28),
    classes=10,
    reported=(),
    training=("recipe fashion-mnist-sprint",),
)

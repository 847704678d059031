"""Cards of this package's own networks, and of others for small images."""

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
BRISK = Card(
    title="this package's own network for a very good answer in half a minute",
    year=2026,
    paper="deepcnn; the first layer: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024",
    input=(1, 28),
    classes=10,
    reported=("Fashion-MNIST test 93.24 % after 5 epochs, mean of 10 seeds: docs/results.md",),
    training=("recipe fashion-mnist-93",),
)
BRISK_DEEP = Card(
    title="this package's own network for as good an answer as five minutes allow",
    year=2026,
    paper="deepcnn; the first layer: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024",
    input=(1, 28),
    classes=10,
    reported=("Fashion-MNIST test 94.88 % after 19 epochs, mean of 5 seeds: docs/results.md",),
    training=("recipe fashion-mnist-945",),
)
DASH = Card(
    title="this package's own network for a few seconds on MNIST",
    year=2026,
    paper="deepcnn; the first layer: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024",
    input=(1, 28),
    classes=10,
    reported=("MNIST test 99.10 % after 2 epochs, mean of 10 seeds: docs/results.md",),
    training=("recipe mnist-99",),
)
SPRINT = Card(
    title="this package's own network for a good answer in a second",
    year=2026,
    paper="deepcnn",
    input=(1, 28),
    classes=10,
    reported=("Fashion-MNIST test 87.28 % after 1 epoch, mean of 20 seeds: docs/results.md",),
    training=("recipe fashion-mnist-sprint",),
)
SPEEDY = Card(
    title="the design of the fastest published trainings on CIFAR-10",
    year=2024,
    paper="Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024",
    input=(3, 32),
    classes=10,
    reported=(
        "CIFAR-10 test 94.01 %, mean of 200 runs, in 2.59 s on an A100, with six views of each "
        "test image (airbench94_muon)",
    ),
    training=(
        "8 epochs of 25 updates of 2,000 images, label smoothing 0.2",
        "convolutions by Muon: rate 0.24, momentum 0.6; head 0.67, biases 0.053 by SGD, Nesterov "
        "momentum 0.85; all fall to 0 along a line",
        "images shifted by up to 2 pixels, mirrored in every other epoch",
        "the whitening layer from 5,000 training images, its bias trained for 3 epochs",
    ),
    differences=(
        "there the whitening layer's weights count: 1,971,640 parameters",
        "initialiser whitened sets that layer from 64 images here",
    ),
)

"""Cards of the networks as teaching texts give them."""

from deepcnn.models.card import Card

LENET = Card(
    title="LeNet of a crash course: pooling without weights, full C3, linear output",
    year=2018,
    paper="a crash course on convolutional networks, after LeCun et al. 1998",
    input=(1, 32),
    classes=10,
    differences=(
        "1998: scaled tanh, trainable subsampling, sparse C3, fixed RBF output (`lenet5`)",
        "kind of pooling and activation are not named by the text: maximum and tanh here",
    ),
)
ALEXNET_D2L = Card(
    title="AlexNet of Dive into Deep Learning: no normalisation, no groups",
    year=2019,
    paper="Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2019, section 6.7",
    input=(1, 224),
    classes=10,
    reported=("Fashion-MNIST at 224, 5 epochs: train 0.846, test 0.866 (MXNet's copy of the set)",),
    training=("SGD 0.01, batch 128, Xavier, dropout 0.5; recipe alexnet-fashion-mnist",),
    differences=(
        "2012: conv1 sees 3 more pixels, so its map is 55x55 and the last one 6x6, not 5x5",
        "no local response normalisation, no split over two towers",
    ),
)
ALEXNET_GLUON = Card(
    title="AlexNet of The Straight Dope: no padding, no dropout",
    year=2017,
    paper="Lipton, Li, Smola et al., Deep Learning - The Straight Dope, 2017, chapter 4",
    input=(3, 224),
    classes=10,
    training=("SGD 0.001, batch 64, Xavier with magnitude 2.24; recipe alexnet-cifar10",),
    differences=("2012: 256 maps in conv2 and padding, so a 6x6 map, not 1x1, reaches dense6",),
)
ALEXNET_SLIDES = Card(
    title="AlexNet of a lecture's slides: alexnet-d2l without dropout",
    year=2019,
    paper="slides to Dive into Deep Learning",
    input=(1, 224),
    classes=10,
    training=("SGD 0.01, batch 256, 10 epochs; recipe alexnet-slides",),
    differences=ALEXNET_D2L.differences,
)

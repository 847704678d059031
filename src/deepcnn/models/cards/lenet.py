"""Cards of LeNet-5 and the networks it is told with."""

from dataclasses import replace

from deepcnn.models.card import Card

LENET5 = Card(
    title="LeNet-5 as published: trained subsampling, sparse C3, distances to drawn characters",
    year=1998,
    paper="LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document "
    "Recognition, Proceedings of the IEEE 86, 1998",
    input=(1, 32),
    classes=10,
    reported=(
        "MNIST test error 0.95 %, stable after some 10 of 20 passes; training error 0.35 % after "
        "19 (60,000 training images, no distortions)",
        "MNIST test error 0.8 % with 540,000 distorted images besides, shifted, scaled, squeezed "
        "and sheared",
        "60,000 trained parameters and 340,908 connections (figure 2)",
    ),
    training=(
        "equation 9, by cross entropy with a constant logit for a rubbish class",
        "digits of 20x20 pixels, centred by mass in 28x28, with background to 32x32; background "
        "-0.1 and ink 1.175, so that the mean is about 0 and the variance about 1",
        "20 passes, one image at a time, each parameter at its own rate (stochastic diagonal "
        "Levenberg-Marquardt): 0.0005 in 2 passes, 0.0002 in 3, 0.0001 in 3, 0.00005 in 4, then "
        "0.00001, each divided by 0.02 plus the second derivative, estimated anew on 500 images "
        "before every pass",
        "weights uniform within 2.4 / fan_in",
    ),
    differences=(
        "j of equation 9 is only said to be positive; it is 1 here",
        "our drawings of the digits; the paper's, of all ASCII characters, are its figure 3",
        "numbers of classes other than 10 have algebraic codes instead of drawings",
        "biases are drawn within the bounds of the weights; the paper does not mention them",
        "all 7 layers are said to have trained parameters, but the 840 of the output are fixed "
        "(at first, says the paper) and not among the 60,000",
    ),
)
LENET_SIGMOID = Card(
    title="LeNet of Dive into Deep Learning: sigmoid units, mean pools, linear output",
    year=2019,
    paper="Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2019, section 6.6",
    input=(1, 28),
    classes=10,
    reported=(
        "Fashion-MNIST, 10 epochs: train 0.820, test 0.825 (the authors' one-day course, July "
        "2019, the same layers and rate)",
    ),
    training=("SGD 0.9 without momentum, batch 256, 5 epochs, Xavier; cross entropy",),
    differences=(
        "the edition of text 002, whose section 6.7 compares AlexNet with this network; so have "
        "the later ones",
        "the edition before, of text 001, and the Chinese of 2018 do not pad the first convolution "
        "and take maxima for pools: last map 4x4, 44,426 parameters",
        "1998: 32x32 images, scaled tanh, trained subsampling, sparse C3, fixed RBF output "
        "(`lenet5`); the text mentions only the output",
    ),
)
LENET_RELU_DROPOUT = replace(
    LENET_SIGMOID,
    title="LeNet with ReLU and dropout: lenet-sigmoid changed as an exercise asks",
    paper="Zhang, Lipton, Li and Smola, Dive into Deep Learning, 2019, section 6.7, exercise 5",
    reported=(),
    training=(),
    differences=(
        "the exercise names no place and no rate of dropout: 0.5 after both hidden dense layers, "
        "as in the AlexNet of that section",
        "Xavier and mean pools as in lenet-sigmoid",
    ),
)
MLP = Card(
    title="fully connected network, 784-30-10: what convolutions are measured against",
    year=2015,
    paper="Nielsen, Neural Networks and Deep Learning, 2015, chapter 1; drawn in a crash course on "
    "convolutional networks, 2018",
    input=(1, 28),
    classes=10,
    reported=(
        "hidden layer: 784 x 30 + 30 = 23,550 parameters, against 20 x (5 x 5 + 1) = 520 of a "
        "convolution with 20 maps of 5x5 (crash course)",
        "MNIST test accuracy 95.42 %, the best of 30 epochs and of three runs (Nielsen)",
    ),
    training=("SGD 3.0, batch 10, 30 epochs, squared error of sigmoid outputs (Nielsen)",),
    differences=(
        "linear output, whose softmax lives in the loss, instead of sigmoid outputs",
        "PyTorch's first weights; Nielsen draws weights and biases normal with deviation 1",
    ),
)

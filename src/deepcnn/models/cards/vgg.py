"""Cards of the VGG family.

Errors are top-1 / top-5 in per cent on ImageNet 2012's validation photos unless another set is
named. S is the short side of the training photos, Q of the test photos; `dense` scores the whole
photo, and its mirror image, at every position and averages. The paper's tables were read in
transcriptions that agree with each other.
"""

from dataclasses import replace

from deepcnn.models.card import Card

VGG11 = Card(
    title="VGG-11: configuration A, eight 3x3 convolutions and three dense layers",
    year=2014,
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
    "Recognition, arXiv 1409.1556, ICLR 2015",
    input=(3, 224),
    classes=1000,
    reported=(
        "one scale, dense, S = Q = 256: error 29.6 / 10.4; with local response normalisation "
        "(A-LRN) 29.7 / 10.5, so it was left out",
        "torchvision's weights, one centre crop: accuracy 69.020 / 88.628",
        "mmpretrain from scratch, one centre crop: accuracy 68.75",
    ),
    training=(
        "SGD, batch 256, momentum 0.9, weight decay 5e-4, dropout 0.5",
        "learning rate 0.01, divided by 10 three times when validation stopped improving",
        "370,000 iterations, 74 epochs",
        "224x224 crops of photos with short side S, mirrored, with a random shift of RGB",
        "S = 256, or 384 begun from 256 at rate 0.001, or any in [256, 512] begun from 384",
        "weights from N(0, 0.1^2), biases 0; B, C, D and E began with the first four convolutions "
        "and the three dense layers of a trained A",
        "two to three weeks for each network on four GTX Titan Black",
    ),
    differences=(
        "first weights: He for convolutions, N(0, 0.01^2) for dense layers, biases 0, as "
        "torchvision's; each depth then starts without a trained A",
        "the paper writes a variance of 0.01, a deviation of 0.1, with which maps grow from layer "
        "to layer; with a deviation of 0.01 they vanish; it adds that Glorot's way needs no A",
        "a pool to 7x7 before the dense layers (torchvision's), the identity at 224; the paper "
        "turned dense layers into convolutions to see larger photos",
        "up to 80 pixels without the first pool, up to 40 without the first two: this package's",
    ),
    licence="torchvision's weights: BSD-3-Clause, as timm states it",
)
VGG13 = replace(
    VGG11,
    title="VGG-13: configuration B, ten 3x3 convolutions and three dense layers",
    reported=(
        "one scale, dense, S = Q = 256: error 28.7 / 9.9",
        "three scales, dense, S = 256, Q = 224, 256, 288: error 28.2 / 9.6",
        "torchvision's weights, one centre crop: accuracy 69.928 / 89.246",
        "mmpretrain from scratch, one centre crop: accuracy 70.02",
    ),
)
VGG16 = replace(
    VGG11,
    title="VGG-16: configuration D, thirteen 3x3 convolutions and three dense layers",
    reported=(
        "one scale, dense: error 27.0 / 8.8 with S = Q = 256, 26.8 / 8.7 with S = Q = 384, "
        "25.6 / 8.1 with S in [256, 512] and Q = 384",
        "three scales, dense, S in [256, 512], Q = 256, 384, 512: error 24.8 / 7.5; 150 crops "
        "24.6 / 7.5; both averaged 24.4 / 7.2",
        "averaged with VGG-19, dense and crops: error 23.7 / 6.8",
        "the authors' weights, tested by He et al. 2015: one centre crop 28.5 / 9.9 "
        "(after MatConvNet), 10 crops 28.07 / 9.33",
        "torchvision's weights, one centre crop: accuracy 71.592 / 90.382",
        "mmpretrain from scratch, one centre crop: accuracy 71.62",
    ),
    differences=(
        *VGG11.differences,
        "configuration C has 1x1 convolutions in three of D's places: error 27.3 / 8.8",
        "He et al. 2015 give it 15.3 billion multiply-adds, those of its convolutions, and VGG-19 "
        "19.6, those of all layers",
    ),
)
VGG19 = replace(
    VGG11,
    title="VGG-19: configuration E, sixteen 3x3 convolutions and three dense layers",
    reported=(
        "one scale, dense: error 27.3 / 9.0 with S = Q = 256, 26.9 / 8.7 with S = Q = 384, "
        "25.5 / 8.0 with S in [256, 512] and Q = 384",
        "three scales, dense, S in [256, 512], Q = 256, 384, 512: error 24.8 / 7.5; 150 crops "
        "24.6 / 7.4; both averaged 24.4 / 7.1",
        "averaged with VGG-16, dense and crops: error 23.7 / 6.8",
        "torchvision's weights, one centre crop: accuracy 72.376 / 90.876",
        "mmpretrain from scratch, one centre crop: accuracy 72.41",
    ),
)

WITH_NORM = (
    "not in the paper: batch normalisation, published in 2015, after every convolution; the "
    "convolutions keep biases, which it takes away again, for the sake of torchvision's weights",
    *VGG11.differences,
)
VGG11_BN = replace(
    VGG11,
    title="VGG-11 with batch normalisation, as torchvision has it",
    reported=(
        "torchvision's weights, one centre crop: accuracy 70.370 / 89.810",
        "mmpretrain from scratch, one centre crop: accuracy 70.67",
    ),
    training=(),
    differences=WITH_NORM,
)
VGG13_BN = replace(
    VGG11_BN,
    title="VGG-13 with batch normalisation, as torchvision has it",
    reported=(
        "torchvision's weights, one centre crop: accuracy 71.586 / 90.374",
        "mmpretrain from scratch, one centre crop: accuracy 72.12",
    ),
)
VGG16_BN = replace(
    VGG11_BN,
    title="VGG-16 with batch normalisation, as torchvision has it",
    reported=(
        "torchvision's weights, one centre crop: accuracy 73.360 / 91.516",
        "mmpretrain from scratch, one centre crop: accuracy 73.74",
    ),
)
VGG19_BN = replace(
    VGG11_BN,
    title="VGG-19 with batch normalisation, as torchvision has it",
    reported=(
        "torchvision's weights, one centre crop: accuracy 74.218 / 91.842",
        "mmpretrain from scratch, one centre crop: accuracy 74.68",
    ),
)

VGG11_SLIDES = Card(
    title="VGG-11 of a lecture's slides: one channel, ten classes",
    year=2019,
    paper="slides to Dive into Deep Learning, after Simonyan and Zisserman 2014",
    input=(1, 224),
    classes=10,
    differences=(
        "the slides build it and print a shape, but train nothing and name no first weights: "
        "PyTorch's default here, with which it is slow to start; with `xavier` it is not",
        "the last map must be 7x7: images from 224x224 to 255x255",
        "2014: three channels, 1000 classes; otherwise configuration A",
    ),
)

"""Cards of the ResNet family.

Errors and accuracies are top-1 / top-5 in per cent on ImageNet 2012's validation photos unless
another set is named; `10 crops` are averaged over, `one crop` is the centre's 224x224 of a photo
with short side 256. The paper's tables were read in transcriptions that agree with each other,
the one-crop errors in the authors' release.
"""

from dataclasses import replace

from deepcnn.models.card import Card

LICENCE = "torchvision's weights: BSD-3-Clause, as timm states it"
PADDED_POOL = (
    "the authors' release pools after the stem without padding and rounds up, so that its windows "
    "lie a pixel further right and down; here, as in torchvision, the pool is padded",
)
SMALL = (
    "up to 80 pixels a 3x3 convolution of stride 1 and the pool, up to 40 no pool: this package's",
)
VERSION_1_5 = (
    "version 1.5, the baseline of today: a bottleneck's stride is in its 3x3 convolution, not in "
    "its first 1x1 one; as published: the name with -v1",
)
VERSION_1 = (
    "version 1: a bottleneck's stride is in its first 1x1 convolution, as in the paper and its "
    "release; torchvision's weights fit the layers but were trained with the stride in the 3x3",
)

RESNET18 = Card(
    title="ResNet-18: eight blocks of two 3x3 convolutions, projections where shapes change",
    year=2015,
    paper="He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, "
    "arXiv 1512.03385, CVPR 2016",
    input=(3, 224),
    classes=1000,
    reported=(
        "10 crops: error 27.88 top-1, with shortcuts of option A; the plain network without "
        "shortcuts 27.94",
        "Facebook's Torch, one crop: error 30.41 / 10.76",
        "torchvision's weights, one crop: accuracy 69.758 / 89.078",
        "mmpretrain from scratch, one crop: accuracy 69.90",
    ),
    training=(
        "SGD, batch 256 as 8 x 32, momentum 0.9, weight decay 1e-4, no dropout",
        "learning rate 0.1, divided by 10 when the error stopped falling; up to 600,000 iterations",
        "224x224 crops of photos with short side in [256, 480], mirrored, the mean of each pixel "
        "subtracted, AlexNet's colour noise",
        "He's first weights",
        "statistics of batch normalisation afterwards recomputed as a true average",
    ),
    differences=(
        "the paper's ResNet-18 adds zeros for new channels (option A); this one projects (B), as "
        "everybody's",
        "weights have variance 2 / fan_out, as torchvision's; the paper cites He et al., who "
        "derive 2 / fan_in first and find either sufficient",
        *PADDED_POOL,
        *SMALL,
    ),
    licence=LICENCE,
)
RESNET34 = replace(
    RESNET18,
    title="ResNet-34: sixteen blocks of two 3x3 convolutions, projections where shapes change",
    reported=(
        "10 crops: error 24.52 / 7.46; the plain network without shortcuts 28.54 / 10.02",
        "several scales: error 21.84 / 5.71",
        "Facebook's Torch, one crop: error 26.73 / 8.74",
        "torchvision's weights, one crop: accuracy 73.314 / 91.420",
        "mmpretrain from scratch, one crop: accuracy 73.62",
    ),
    differences=RESNET18.differences[1:],
)
RESNET34_A = replace(
    RESNET34,
    title="ResNet-34 with shortcuts A: zeros for new channels, no parameters",
    reported=("10 crops: error 25.03 / 7.76",),
    licence="",
)
RESNET34_C = replace(
    RESNET34,
    title="ResNet-34 with shortcuts C: projections in all sixteen blocks",
    reported=("10 crops: error 24.19 / 7.40", "several scales: error 21.53 / 5.60"),
    licence="",
)

PUBLISHED_50 = (
    "10 crops, stride as published: error 22.85 / 6.71",
    "one crop, stride as published: error 24.7 / 7.8",
    "several scales, stride as published: error 20.74 / 5.25",
)
PUBLISHED_101 = (
    "10 crops, stride as published: error 21.75 / 6.05",
    "one crop, stride as published: error 23.6 / 7.1",
    "several scales, stride as published: error 19.87 / 4.60",
)
PUBLISHED_152 = (
    "10 crops, stride as published: error 21.43 / 5.71",
    "one crop, stride as published: error 23.0 / 6.7",
    "several scales, stride as published: error 19.38 / 4.49",
    "six networks of several depths, two of them this one: top-5 error 3.57 on the test photos, "
    "first place of ILSVRC 2015",
)
RESNET50 = replace(
    RESNET18,
    title="ResNet-50: sixteen bottlenecks, stride in the 3x3 convolution",
    reported=(
        *PUBLISHED_50,
        "Facebook's Torch, one crop: error 24.01 / 7.02",
        "torchvision's weights, one crop: accuracy 76.130 / 92.862; its newer ones, with another "
        "recipe and photos resized to 232: 80.858 / 95.434",
        "timm's resnet50.a1_in1k: top-1 accuracy 80.38 at 224, 81.24 at 288",
        "mmpretrain from scratch, one crop: accuracy 76.55",
    ),
    differences=(
        *VERSION_1_5,
        *RESNET34.differences,
    ),
)
RESNET101 = replace(
    RESNET50,
    title="ResNet-101: 33 bottlenecks, stride in the 3x3 convolution",
    reported=(
        *PUBLISHED_101,
        "Facebook's Torch, one crop: error 22.44 / 6.21",
        "torchvision's weights, one crop: accuracy 77.374 / 93.546; its newer ones, with another "
        "recipe and photos resized to 232: 81.886 / 95.780",
        "mmpretrain from scratch, one crop: accuracy 77.97",
    ),
)
RESNET152 = replace(
    RESNET50,
    title="ResNet-152: 50 bottlenecks, stride in the 3x3 convolution",
    reported=(
        *PUBLISHED_152,
        "torchvision's weights, one crop: accuracy 78.312 / 94.046; its newer ones, with another "
        "recipe and photos resized to 232: 82.284 / 96.002",
        "timm's resnet152.a1h_in1k: top-1 accuracy 82.82",
        "mmpretrain from scratch, one crop: accuracy 78.48",
    ),
)

V1_DIFFERENCES = (
    *VERSION_1,
    *RESNET34.differences,
    "the paper gives 3.8, 7.6 and 11.3 billion multiply-adds for 50, 101 and 152 layers",
)
RESNET50_V1 = replace(
    RESNET50,
    title="ResNet-50 as published: stride in the first 1x1 convolution",
    reported=PUBLISHED_50,
    differences=(
        *V1_DIFFERENCES,
        "in the authors' release of 50 layers, not in that of 101, the stem's convolution has a "
        "bias, which batch normalisation takes away again",
    ),
    licence="",
)
RESNET101_V1 = replace(
    RESNET50_V1,
    title="ResNet-101 as published: stride in the first 1x1 convolution",
    reported=PUBLISHED_101,
    differences=V1_DIFFERENCES,
)
RESNET152_V1 = replace(
    RESNET101_V1,
    title="ResNet-152 as published: stride in the first 1x1 convolution",
    reported=PUBLISHED_152,
)

RESNET18_NOBN = replace(
    RESNET18,
    title="ResNet-18 without batch normalisation: convolutions with biases instead",
    reported=(),
    training=(),
    differences=(
        "a lecture explains the network so at first, and trains nothing; all that follows is this "
        "package's choice",
        "first weights: He's with 2 / fan_in, which keeps the size of the maps; the last "
        "convolution of each block divided by the number of blocks; biases 0",
        "in trials of 40 steps on Fashion-MNIST learning rates of 0.005 and 0.02 learned and 0.1 "
        "diverged, as did any of them in 34 layers where the weights were not divided",
        *PADDED_POOL,
        *SMALL,
    ),
    licence="",
)
RESNET34_NOBN = replace(
    RESNET18_NOBN,
    title="ResNet-34 without batch normalisation: convolutions with biases instead",
)

RESNET20 = Card(
    title="ResNet-20 for CIFAR-10: nine blocks of 16, 32 and 64 channels, shortcuts A",
    year=2015,
    paper="He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, "
    "arXiv 1512.03385, CVPR 2016, section 4.2",
    input=(3, 32),
    classes=10,
    reported=("CIFAR-10 test error 8.75",),
    training=(
        "SGD, batch 128 on two GPUs, momentum 0.9, weight decay 1e-4, no dropout",
        "learning rate 0.1, divided by 10 at iterations 32,000 and 48,000 of 64,000, as found "
        "with 45,000 photos for training and 5,000 for validation",
        "32x32 crops of photos padded by 4 pixels, mirrored, the mean of each pixel subtracted",
        "He's first weights",
    ),
    differences=(
        "weights have variance 2 / fan_out; the paper cites He et al., who derive 2 / fan_in first "
        "and find either sufficient",
        "the paper does not say where the zeros of a shortcut go; here after the channels, "
        "elsewhere half of them before",
    ),
)
RESNET32 = replace(
    RESNET20,
    title="ResNet-32 for CIFAR-10: fifteen blocks of 16, 32 and 64 channels, shortcuts A",
    reported=("CIFAR-10 test error 7.51",),
)
RESNET44 = replace(
    RESNET20,
    title="ResNet-44 for CIFAR-10: 21 blocks of 16, 32 and 64 channels, shortcuts A",
    reported=("CIFAR-10 test error 7.17",),
)
RESNET56 = replace(
    RESNET20,
    title="ResNet-56 for CIFAR-10: 27 blocks of 16, 32 and 64 channels, shortcuts A",
    reported=("CIFAR-10 test error 6.97",),
)
RESNET110 = replace(
    RESNET20,
    title="ResNet-110 for CIFAR-10: 54 blocks of 16, 32 and 64 channels, shortcuts A",
    reported=("CIFAR-10 test error 6.43, the best of five runs; mean 6.61, deviation 0.16",),
    training=(
        *RESNET20.training,
        "the first 400 or so iterations at 0.01, until the training error was below 80 %",
    ),
)

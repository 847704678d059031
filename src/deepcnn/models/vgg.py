"""VGG, depth from 3x3 convolutions alone.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
2014: configurations A, B, D and E, and A as a lecture gives it.
Shapes in comments: N images, C channels, H rows, W columns.
"""

from torch import Tensor, nn

from deepcnn.models.pool import WindowMeans
from deepcnn.models.stem import stem_stride

ConvArch = tuple[tuple[int, int], ...]  # of each block: how many convolutions, how many channels

A: ConvArch = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
B: ConvArch = ((2, 64), (2, 128), (2, 256), (2, 512), (2, 512))
D: ConvArch = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
E: ConvArch = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

POOLS_LEFT_OUT = {4: 0, 2: 1, 1: 2}  # by the stem's stride


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each halving the side, and three dense layers.

    For sides up to 80 the first pool is left out, up to 40 the first two. The last map is brought
    to 7x7, by means or by repetition, so any side from 8 will do. One built for 224 takes any side
    from 32. Layers have torchvision's names, and a seed draws the weights it draws there.
    """

    def __init__(
        self,
        conv_arch: ConvArch,
        num_classes: int = 1000,
        in_channels: int = 3,
        side: int = 224,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        left_out = POOLS_LEFT_OUT[stem_stride(side)]
        self.features = features(conv_arch, in_channels, left_out, batch_norm)
        self.avgpool = WindowMeans(7)
        self.classifier = classifier(conv_arch[-1][1], num_classes)
        self.apply(draw)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = self.features(images)  # N 512 7 7
        x = self.avgpool(x).flatten(1)  # N 25088
        logits: Tensor = self.classifier(x)
        return logits  # N num_classes


def features(
    conv_arch: ConvArch, in_channels: int, left_out: int, batch_norm: bool
) -> nn.Sequential:
    """Blocks of convolutions, each but the first `left_out` with a pool at its end."""
    layers: list[nn.Module] = []
    for block, (num_convs, out_channels) in enumerate(conv_arch):
        for _ in range(num_convs):
            layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        # A pool that is left out keeps its number, or all layers after it would change names.
        layers.append(nn.Identity() if block < left_out else nn.MaxPool2d(kernel_size=2))
    return nn.Sequential(*layers)


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Three dense layers on maps of 7x7."""
    return nn.Sequential(
        nn.Linear(channels * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )


def draw(layer: nn.Module) -> None:
    """He et al. 2015 for convolutions, N(0, 0.01^2) for dense layers, biases 0.

    The paper drew every weight from N(0, 0.1^2); the card says why this does not.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)


def vgg11(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-11, configuration A: 3x224x224, 132,863,336 parameters for 1000 classes."""
    return VGG(A, num_classes, in_channels, side)


def vgg13(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-13, configuration B: 3x224x224, 133,047,848 parameters for 1000 classes."""
    return VGG(B, num_classes, in_channels, side)


def vgg16(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-16, configuration D: 3x224x224, 138,357,544 parameters for 1000 classes."""
    return VGG(D, num_classes, in_channels, side)


def vgg19(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-19, configuration E: 3x224x224, 143,667,240 parameters for 1000 classes."""
    return VGG(E, num_classes, in_channels, side)


def vgg11_bn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-11 with batch normalisation: 3x224x224, 132,868,840 parameters for 1000 classes."""
    return VGG(A, num_classes, in_channels, side, batch_norm=True)


def vgg13_bn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-13 with batch normalisation: 3x224x224, 133,053,736 parameters for 1000 classes."""
    return VGG(B, num_classes, in_channels, side, batch_norm=True)


def vgg16_bn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-16 with batch normalisation: 3x224x224, 138,365,992 parameters for 1000 classes."""
    return VGG(D, num_classes, in_channels, side, batch_norm=True)


def vgg19_bn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> VGG:
    """VGG-19 with batch normalisation: 3x224x224, 143,678,248 parameters for 1000 classes."""
    return VGG(E, num_classes, in_channels, side, batch_norm=True)


class VGGSlides(nn.Sequential):
    """VGG of a lecture's slides: any arrangement of blocks, with the slides' names of layers.

    It differs from `VGG` in its first weights, PyTorch's default as the slides name none, and in
    that the last map must be 7x7: with five blocks, sides 224 to 255.
    """

    def __init__(self, conv_arch: ConvArch, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        for index, (num_convs, out_channels) in enumerate(conv_arch):
            self.add_module(f"vgg_block{index}", block(num_convs, in_channels, out_channels))
            in_channels = out_channels
        self.last = nn.Sequential(nn.Flatten(), *classifier(in_channels, num_classes))


def block(num_convs: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolutions and a pool, under the slides' names."""
    layers = nn.Sequential()
    for index in range(num_convs):
        layers.add_module(f"conv{index}", nn.Conv2d(in_channels, out_channels, 3, padding=1))
        layers.add_module(f"relu{index}", nn.ReLU())
        in_channels = out_channels
    layers.add_module("max_pool", nn.MaxPool2d(kernel_size=2))
    return layers


def vgg11_slides(num_classes: int = 10, in_channels: int = 1) -> VGGSlides:
    """VGG-11 of a lecture's slides: 1x224x224, 128,806,154 parameters for 10 classes."""
    return VGGSlides(A, num_classes, in_channels)

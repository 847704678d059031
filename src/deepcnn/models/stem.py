"""What networks made for 224x224 images do with small ones."""

SMALL, MEDIUM = 40, 80  # pixels: the sides 28 and 32 fall below the first, 64 below the second


def stem_stride(side: int) -> int:
    """By how much the stem of a network for 224x224 images should shrink images of this side.

    Published stems shrink by 4 (a convolution of stride 2, a pool of stride 2), which leaves a
    32x32 image with one pixel at the end of the network. 4 above 80 pixels, 2 above 40, else 1.
    """
    if side <= SMALL:
        return 1
    return 2 if side <= MEDIUM else 4

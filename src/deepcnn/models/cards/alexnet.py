"""Cards of AlexNet and the networks that go by its name."""

from dataclasses import replace

from deepcnn.models.card import Card

ALEXNET = Card(
    title="AlexNet as published in 2012: two towers, response normalisation, dropout",
    year=2012,
    paper="Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional "
    "Neural Networks, NIPS 2012",
    input=(3, 224),
    classes=1000,
    reported=(
        "ILSVRC-2010 test, error top-1 / top-5: 37.5 / 17.0 %, mean of 10 crops; 39.0 / 18.3 % "
        "without averaging over crops",
        "ILSVRC-2012 validation, 10 crops: 40.7 / 18.2 %; mean of 5 networks 38.1 / 16.4 %",
        "ILSVRC-2012, 7 networks, 2 of them pre-trained on all of ImageNet (Fall 2011): validation "
        "36.7 / 15.4 %, test top-5 15.3 %, which won; the next entry had 26.2 %",
        "what a part takes off the error: response normalisation 1.4 / 1.2 points, overlapping "
        "pools 0.4 / 0.3, two towers 1.7 / 1.2 (against alexnet-half), shifted colours over 1",
    ),
    training=(
        "short side scaled to 256, centre 256x256; mean image subtracted, otherwise raw values",
        "random 224x224 crops and mirror images; colours shifted along principal components",
        "SGD: batch 128, momentum 0.9, weight decay 0.0005, rate 0.01, divided by 10 three times "
        "when validation stopped improving; roughly 90 epochs",
        "5 to 6 days on two GTX 580 of 3 GB",
        "weights normal with deviation 0.01; biases 1 in conv2, conv4, conv5, dense6 and dense7",
        "Caffe's replica had to begin with 0.1: biases of 1 left its loss flat (BVLC/caffe#327)",
    ),
    differences=(
        "conv1 puts out 55x55 from 224, not 227, pixels: the code rounds up, and the last window "
        "hangs over the edge by 3",
        "alpha is a factor of the sum, as printed; the code has a fifth of it (alexnet-released)",
        "response normalisation stays within a tower, as in the code; the printed sum runs over "
        "all kernels of a layer, but the towers' GPUs communicate only at certain layers",
        "response normalisation suits raw values, 0 to 255 less their mean: small ones it divides "
        "by about 2^0.75, whatever is near",
        "erratum: Figure 2 counts 253,440 neurons after conv1, but 55 * 55 * 96 is 290,400, and "
        "with that all are 659,272 (the abstract rounds to 650,000)",
    ),
)
RELEASED = replace(
    ALEXNET,
    title="AlexNet as its source code has it: the network of the paper's results",
    paper="AlexNet source code of 2012, released by the Computer History Museum: layers-145.cfg; "
    "to the paper of Krizhevsky, Sutskever and Hinton, NIPS 2012",
    reported=(
        "ILSVRC-2012 validation, several crops: 40.66 / 18.21 % error (the paper's 40.7 / 18.2)",
        "the same, rate raised again to 0.001 after epoch 91, 135 epochs: 40.25 / 17.99 %",
        "ILSVRC-2010 test: 37.47 / 17.00 %, several crops; 39.02 / 18.30 %, centre crop",
        "ILSVRC-2012 validation without links between the towers (150): 41.83 / 19.33 %",
    ),
    training=(
        "rate 0.01, 0.001 from epoch 25, 0.0001 from 51, 0.00001 from 79; killed after 91",
        "from epoch 67 no colour noise and a tenth of the rate in conv1, which rests from 72",
        "biases: no weight decay; their rate is 0.02 in the last settings, conv1 resting",
        "crop and mirror image are drawn once for each block of 32 images",
        "colour noise: 0.1 * normal * deviation (the paper: eigenvalue) along the components, "
        "then the image is divided by 1.1",
        "weights normal with deviation 0.01, in conv3 to conv5 0.03",
    ),
    differences=(
        "paper: ReLU before the first response normalisation; here normalise, pool, ReLU",
        "paper: one normalisation after conv2; here a second one follows, within each map, with "
        "5x5 windows, alpha 0.001 / 25, beta 0.75, k 1",
        "paper: alpha 0.0001; here 0.0001 / 5: layer.py divides by the size of the window, and "
        "nn.LocalResponseNorm(5, 1e-4, 0.75, 2) agrees with it",
        "paper: deviation 0.01 of all weights",
        "the release says it brings trained weights; the public repository has none",
        *ALEXNET.differences[3:],
    ),
)
ONE_TOWER = replace(
    ALEXNET,
    title="AlexNet with one tower as wide as both: what most descriptions count",
    paper="no single source; the widths of Krizhevsky, Sutskever and Hinton 2012 without groups",
    reported=(
        "a network of this count in osmr/imgclsmob: 38.50 / 16.64 % error, ILSVRC-2012 validation, "
        "centre crop",
    ),
    training=(),
    differences=(
        "2012: conv2, conv4 and conv5 see the maps of their own tower only",
        "response normalisation runs over all maps, as the paper's formula has it; descriptions "
        "of this network often leave it out",
        *ALEXNET.differences[:2],
        ALEXNET.differences[3],
    ),
)
HALF = replace(
    RELEASED,
    title="One tower of AlexNet, the paper's one-GPU network",
    paper="AlexNet source code of 2012, released by the Computer History Museum: "
    "layers-145-half.cfg; section 3.2 of Krizhevsky, Sutskever and Hinton, NIPS 2012",
    reported=("ILSVRC-2010 test, several crops: 39.17 / 18.23 % error",),
    training=(
        "rate 0.01, 0.001 from epoch 20, 0.0001 from 48; killed after 96",
        "from epoch 66 no colour noise and a tenth of the rate in conv1, which rests from 72",
        *RELEASED.training[3:],
    ),
    differences=(
        "conv5 is as wide as in both towers, not half: else the network had half the parameters "
        "and the comparison would not be fair (the file's own comment)",
        *RELEASED.differences[:4],
        ALEXNET.differences[3],
    ),
)
OWT = Card(
    title='AlexNet of "One weird trick", as in torchvision',
    year=2014,
    paper="Krizhevsky, One weird trick for parallelizing convolutional neural networks, "
    "arXiv:1404.5997, 2014; torchvision.models.alexnet",
    input=(3, 224),
    classes=1000,
    reported=(
        "torchvision's weights IMAGENET1K_V1: accuracy 56.522 / 79.066 %, ILSVRC-2012 validation, "
        "short side 256, centre crop",
    ),
    training=(
        "paper: 90 epochs, rate times 250^(-1/3) after 25, 50 and 75 % of them; the cost is the "
        "cross-entropy of 1000 logistic units, not softmax",
    ),
    differences=(
        "the paper's footnote has 384 maps in conv4, 61,838,248 parameters; torchvision, after "
        "cuda-convnet2's configuration for one GPU, has 256 (pytorch/vision#704)",
        "cuda-convnet2's configuration normalises responses after conv1 and conv2",
        "dropout precedes the two hidden dense layers, as in torchvision; in 2012 it followed "
        "them (pytorch/vision#549, kept so that weights stay valid)",
        "weights begin as PyTorch draws them",
        "other sides than 224: torchvision keeps the stem of stride 4 for small images, too",
    ),
    licence="torchvision's weights may carry terms of ImageNet, on which they were trained",
)

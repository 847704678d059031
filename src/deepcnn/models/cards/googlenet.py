"""Cards of GoogLeNet."""

from deepcnn.models.card import Card

GOOGLENET = Card(
    title="GoogLeNet as published, with its two auxiliary heads",
    year=2014,
    paper="Szegedy, Liu, Jia et al., Going Deeper with Convolutions, arXiv:1409.4842, CVPR 2015",
    input=(3, 224),
    classes=1000,
    reported=(
        "ILSVRC 2014 validation, top-5 error, one network: 1 crop 10.07 %, 10 crops 9.15 %, "
        "144 crops 7.89 %",
        "the same, 7 networks: 1 crop 8.09 %, 10 crops 7.62 %, 144 crops 6.67 %; test 6.67 %",
        "Caffe's replica, ILSVRC 2012 validation, centre crop: top-1 68.7 %, top-5 88.9 % correct",
    ),
    training=(
        "asynchronous SGD, momentum 0.9, learning rate 4 % lower every 8 epochs, Polyak averaging",
        "loss + 0.3 x the losses of both heads; dropout 0.4, in the heads 0.7",
        "crops of 8 to 100 % of the image's area, aspect ratio 3/4 to 4/3, photometric distortion",
        "the paper keeps to itself batch size, first learning rate, weight decay and first weights",
        "Caffe: batch 32, 0.01 x 0.96 every 320,000 steps (8 epochs), weight decay 0.0002; its "
        "published weights came from a shorter schedule of 2.4 million steps (60 epochs)",
    ),
    differences=(
        "parameters: 6,998,552 without the heads, which prediction never uses; 13,378,280 with "
        "them; the paper's table adds up to 6.8 million, in units of 1,024",
        "that table agrees with its own widths within 1 % for conv2, 3a, 3b, 4a, 4b, 4e and the "
        "linear layer, not for conv1 (2.7K printed, 9.3K by its widths), 4c (463, 498), 4d "
        "(580, 591), 5a (1072, 1019), 5b (1388, 1410)",
        "operations: the table's agree within 1 % but for conv1 (34 million printed, 118 by its "
        "widths) and 5a (54, 51); they add up to 1.50 G, by the widths 1.58 G",
        "first weights, where the paper is silent: Caffe's, uniform within sqrt(3 / fan_in), "
        "biases 0.2, of the layers before a softmax 0",
        "response normalisation, named without constants: Caffe's k 1, n 5, alpha 1e-4, beta 0.75",
        "Caffe's replica: no scale, aspect ratio or relighting augmentation, and Xavier weights "
        "instead of the original's Gaussian ones, by its own account",
        "torchvision's GoogLeNet is another network: `googlenet-bn`",
    ),
)
GOOGLENET_BN = Card(
    title="GoogLeNet of torchvision: batch normalisation, 3x3 for 5x5, no heads",
    year=2014,
    paper="torchvision.models.googlenet, after Szegedy et al., arXiv:1409.4842",
    input=(3, 224),
    classes=1000,
    reported=("ImageNet-1K validation, centre crop 224 of 256: top-1 69.778 %, top-5 89.530 %",),
    training=(
        "not trained by torchvision: its weights were ported from TensorFlow's",
        "first weights: normal with standard deviation 0.01, cut at 2",
    ),
    differences=(
        "2014: no batch normalisation, biases, 5x5 convolutions, response normalisation",
        "2014: pool4 is 3x3, here 2x2; dropout 0.4, here 0.2",
        "5x5 became 3x3 by mistake and stays for the weights' sake: pytorch/vision issue 906",
        "state dict: that of torchvision.models.googlenet(aux_logits=False); with heads it has "
        "aux1.* and aux2.* besides, to be left out",
        "torchvision's heads average adaptively, in windows of 4x4, where the paper has 5x5",
        "transform_input is off: torchvision turns it on with its weights, to bring images "
        "normalised by ImageNet's statistics to mean 0.5 and deviation 0.5; normalise so instead",
    ),
    licence="torchvision's weights may carry terms of their own: "
    "https://github.com/pytorch/vision#pre-trained-model-license",
)

"""Cards of the networks, a module for each family; constants only."""

from deepcnn.models.cards import alexnet, compact, googlenet, lenet, resnet, texts, vgg

__all__ = ["alexnet", "compact", "googlenet", "lenet", "resnet", "texts", "vgg"]

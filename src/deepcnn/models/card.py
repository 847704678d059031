"""`Card`, what the sources say of a network, and `Landmark`, an entry in the table of networks."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from deepcnn.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """What is known of a network and cannot be computed from it."""

    title: str  # one line: what it is
    year: int
    paper: str  # authors, title, place; or the text it comes from
    input: tuple[int, int]  # channels and side of the images it was made for
    classes: int  # it was published for
    reported: tuple[str, ...] = ()  # results, each with its data set and protocol
    training: tuple[str, ...] = ()  # how the source trained it
    differences: tuple[str, ...] = ()  # from its source, between its sources, and their errata
    licence: str = ""  # of weights, where a library brings them


@dataclass(frozen=True)
class Landmark:
    """A network as it is built, called as (num_classes, in_channels), and its card.

    Where `takes_side`, a third argument is the side of the images: the network has another stem
    for small ones, or its first dense layer depends on it.
    """

    network: Callable[..., nn.Module]
    card: Card
    takes_side: bool = False

    def build(self, num_classes: int, in_channels: int, side: int) -> nn.Module:
        """Return the network with weights as its source draws them.

        Raises ConfigError for less than one class or channel.
        """
        for what, number in (("classes", num_classes), ("input channels", in_channels)):
            if number < 1:
                raise ConfigError(f"the number of {what} is {number}, expected at least 1")
        if self.takes_side:
            return self.network(num_classes, in_channels, side)
        return self.network(num_classes, in_channels)

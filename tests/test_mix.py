import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from deepcnn.config import Augment
from deepcnn.data.augment import Parameters, draw
from deepcnn.data.mix import cut_boxes, mixed, partner_positions

MANY = 20_000
sides = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)
mixings = st.builds(
    Augment, mixup=st.sampled_from([0.0, 0.2, 1.0]), cutmix=st.sampled_from([0.0, 1.0])
)


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def box_by_torchvisions_rule(
    share: float, centre: list[float], height: int, width: int
) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) as in its CutMix."""
    y, x = int(centre[0] * height), int(centre[1] * width)
    reach = 0.5 * math.sqrt(1 - share)
    down, right = int(reach * height), int(reach * width)
    return max(x - right, 0), max(y - down, 0), min(x + right, width), min(y + down, height)


def by_torchvision(
    rows: Parameters, row: int, own: Tensor, partner: Tensor
) -> tuple[Tensor, float]:
    """The mixed image and the weight of its own label."""
    # Of a pair, the first is mixed with the second. The labels are 0 and 1.
    pair, labels = torch.stack((own, partner)).double(), torch.tensor([0, 1])
    height, width = own.shape[-2:]
    share = float(rows["share"][row])
    settings = {"labels": labels, "batch_size": 2, "lam": share}
    transform = v2.MixUp(num_classes=2)
    if "cut" in rows and rows["cut"][row]:
        transform = v2.CutMix(num_classes=2)
        x1, y1, x2, y2 = box_by_torchvisions_rule(
            share, rows["centre"][row].tolist(), height, width
        )
        settings |= {"box": (x1, y1, x2, y2)}
        settings |= {"lam_adjusted": 1 - (x2 - x1) * (y2 - y1) / (height * width)}
    image = transform.transform(pair, settings)[0]
    return image, float(transform.transform(labels, settings)[0, 0])


@settings(max_examples=80)
@given(mixings, st.integers(1, 6), st.integers(1, 3), sides, sides, seeds)
def test_mixtures_equal_torchvisions(
    options: Augment, number: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = random_images(seed, number, channels, height, width)
    partners = random_images(seed + 1, number, channels, height, width)
    rows = draw(options, seed, 1, number)
    mixture, shares = mixed(images, partners, rows)
    assert mixture.dtype == torch.uint8
    numbers, same_shares = mixed(images.float(), partners.float(), rows)
    assert numbers.dtype == shares.dtype == torch.float32
    assert torch.equal(shares, same_shares)
    assert torch.equal(numbers.round().byte(), mixture)
    if not rows:
        assert torch.equal(mixture, images)
        assert torch.equal(shares, torch.ones(number))
        return
    for row in range(number):
        expected, share = by_torchvision(rows, row, images[row], partners[row])
        torch.testing.assert_close(numbers[row].double(), expected, rtol=0, atol=1e-3)
        assert float(shares[row]) == pytest.approx(share, abs=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 12), sides, sides, seeds)
def test_the_weight_of_a_label_is_the_share_of_its_pixels(
    number: int, height: int, width: int, seed: int
) -> None:
    white = torch.full((number, 1, height, width), 255, dtype=torch.uint8)
    mixture, shares = mixed(
        white, torch.zeros_like(white), draw(Augment(cutmix=1.0), seed, 0, number)
    )
    assert set(mixture.flatten().tolist()) <= {0, 255}
    np.testing.assert_allclose(mixture.double().mean((1, 2, 3)) / 255, shares, atol=1e-6)


@settings(max_examples=30)
@given(mixings, seeds)
def test_an_image_mixed_with_itself_stays_as_it_is(options: Augment, seed: int) -> None:
    images = random_images(seed, 5, 3, 4, 7)
    assert torch.equal(mixed(images, images, draw(options, seed, 0, 5))[0], images)


@settings(max_examples=60)
@given(st.integers(1, 200))
def test_partners_are_pairs_and_the_last_of_an_odd_number_is_alone(num_images: int) -> None:
    positions = torch.arange(num_images)
    partners = partner_positions(positions, num_images)
    assert torch.equal(partners[partners], positions)
    alone = (partners == positions).nonzero().flatten().tolist()
    assert alone == [num_images - 1] * (num_images % 2)
    for start in range(0, num_images - 1, 2):  # so batches of even size hold whole pairs
        assert partners[start : start + 2].tolist() == [start + 1, start]


def test_shares_follow_the_beta_distributions() -> None:
    mixup = draw(Augment(mixup=0.2), 0, 0, MANY)
    assert set(mixup) == {"share"}
    # The lower half, twice: in float32 many numbers of the upper one are 1.
    low = mixup["share"][mixup["share"] < 0.5].double().numpy()
    assert len(low) / MANY == pytest.approx(0.5, abs=0.015)
    beta = scipy.stats.beta(0.2, 0.2)
    assert scipy.stats.kstest(low, lambda share: 2 * beta.cdf(share)).pvalue > 0.001
    cutmix = draw(Augment(cutmix=1.0), 0, 0, MANY)
    assert cutmix["cut"].all()
    assert scipy.stats.kstest(cutmix["share"].numpy(), "uniform").pvalue > 0.001
    assert scipy.stats.kstest(cutmix["centre"][:, 0].numpy(), "uniform").pvalue > 0.001
    assert scipy.stats.kstest(cutmix["centre"][:, 1].numpy(), "uniform").pvalue > 0.001


def test_with_both_a_coin_decides_and_each_keeps_its_shares() -> None:
    both = draw(Augment(mixup=0.2, cutmix=1.0), 0, 0, MANY)
    cut = both["cut"]
    assert cut.double().mean() == pytest.approx(0.5, abs=0.015)
    alone = {
        True: draw(Augment(cutmix=1.0), 0, 0, MANY)["share"],
        False: draw(Augment(mixup=0.2), 0, 0, MANY)["share"],
    }
    for kind, share in alone.items():
        assert torch.equal(both["share"][cut == kind], share[cut == kind])
    assert not torch.equal(both["share"], draw(Augment(mixup=0.2, cutmix=1.0), 0, 1, MANY)["share"])


@pytest.mark.parametrize(("share", "box"), [(1.0, [4, 2, 0, 0]), (0.0, [0, 0, 8, 4])])
def test_extreme_shares_paste_nothing_or_all(share: float, box: list[float]) -> None:
    centre = torch.tensor([[0.5, 0.5]])
    assert cut_boxes(torch.tensor([share]), centre, 8, 4).tolist() == [box]

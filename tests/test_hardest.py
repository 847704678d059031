"""Which images an epoch visits, against NumPy, and what a run makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcnn.config import Augment, Config, Train
from deepcnn.data.hardest import AT_RANDOM, NEVER_SEEN, hardest, num_visited
from deepcnn.errors import ConfigError
from deepcnn.train import train_step
from faults import SMALL, checkpoints, train_here, write_images

seeds = st.integers(0, 2**31)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0.01, 1), seeds, seeds)
def test_those_of_highest_loss_and_some_others(
    losses: list[int], share: float, seed: int, epoch: int
) -> None:
    values = np.array(losses, np.float32)  # with many ties
    number = num_visited(len(losses), share, epoch=1)
    chosen = hardest(torch.from_numpy(values), number, seed, epoch).numpy()
    assert chosen.sum() == number
    num_hard = number - round(AT_RANDOM * number)
    # However ties are broken, the highest losses are there.
    left_out = np.sort(values[~chosen])[::-1]
    threshold = np.sort(values)[::-1][num_hard - 1] if num_hard else np.inf
    assert (left_out <= threshold).all()
    assert (values[chosen] >= threshold).sum() >= num_hard


def test_the_first_epoch_visits_all() -> None:
    assert [num_visited(10, 0.25, epoch) for epoch in (0, 1, 7)] == [10, 2, 2]


def test_ties_and_the_easy_are_drawn_by_seed_and_epoch() -> None:
    losses = torch.cat([torch.zeros(900), torch.ones(100)])
    draws = [hardest(losses, 200, seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert all(draw[900:].all() for draw in draws)
    easy = torch.stack([draw[:900] for draw in draws]).double()
    assert torch.equal(hardest(losses, 200, 0, 1), draws[0])
    overlap = easy @ easy.T  # of 100 in 900, two draws share 11 in the mean, deviation 3
    assert overlap.fill_diagonal_(0).max() < 30


def test_what_was_never_seen_comes_first() -> None:
    losses = torch.tensor([5.0, NEVER_SEEN, 90.0, NEVER_SEEN])
    assert hardest(losses, 2, 0, 1).tolist() == [False, True, False, True]


def test_mixed_images_have_no_loss_of_their_own() -> None:
    for augment in (Augment(mixup=0.2), Augment(cutmix=1.0)):
        with pytest.raises(ConfigError, match=r"train.hardest goes by the loss of each image, and"):
            Config(augment=augment, train=Train(hardest=0.5))


def test_fewer_than_a_batch_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"hardest 0.1 leaves fewer of 80 .* than the 10 of a"):
        train_here(SMALL | {"data.name": str(images), "train.hardest": 0.1}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_losses_of_what_it_saw_and_goes_by_them(tmp_path: Path) -> None:
    """Losses are computed anew here, with the weights at the start of each update."""
    from deepcnn import train

    seen: list[tuple[list[int], list[float]]] = []

    def step(run, pieces, indices):  # type: ignore[no-untyped-def]
        kept = list(pieces)
        run.state.model.train()
        state = {key: value.clone() for key, value in run.state.model.state_dict().items()}
        with torch.no_grad():
            logits = torch.cat([run.state.model(piece.images) for piece in kept])
        labels = torch.cat([piece.labels for piece in kept])
        own = -logits.double().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
        run.state.model.load_state_dict(state)
        torch.manual_seed(0)
        result = train_step(run, kept, indices)
        seen.append((indices.tolist(), own.tolist()))
        held = run.state.losses[indices]
        torch.testing.assert_close(held, own.float(), rtol=1e-4, atol=1e-5)
        return result

    images = write_images(tmp_path / "images")
    settings = SMALL | {
        "data.name": str(images), "model.name": "lenet", "data.size": 32,
        "train.hardest": 0.5, "train.epochs": 4,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", step)
        train_here(settings, tmp_path / "run")
    assert [len(indices) for indices, _ in seen] == [10] * (8 + 3 * 4)
    assert checkpoints(tmp_path / "run")[-1].name == "step-000000020"
    latest: dict[int, float] = {}
    for epoch in range(4):
        part = seen[:8] if epoch == 0 else seen[8 + 4 * (epoch - 1) : 8 + 4 * epoch]
        visited = {index for indices, _ in part for index in indices}
        assert len(visited) == (80 if epoch == 0 else 40)  # none twice
        if latest:
            hard = sorted(latest, key=latest.__getitem__, reverse=True)[:32]
            assert visited >= set(hard)
        latest |= {i: x for indices, own in part for i, x in zip(indices, own, strict=True)}

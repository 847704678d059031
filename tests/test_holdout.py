"""What is held out, against a slow computation and against invariants of groups."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcnn.data.holdout import held_out
from deepcnn.errors import DataError

Labels = NDArray[np.int64]
seeds = st.integers(0, 2**63 - 1)
label_lists = st.lists(st.integers(0, 5), min_size=2, max_size=120)


def array(labels: list[int]) -> Labels:
    return np.array(labels, dtype=np.int64)


def fair_shares(labels: list[int], number: int) -> dict[int, int]:
    """Largest remainder; of equal remainders, as floats have it, the lower label goes first."""
    exact = {k: n * number / len(labels) for k, n in sorted(Counter(labels).items())}
    shares = {k: int(share) for k, share in exact.items()}
    by_remainder = sorted(exact, key=lambda k: (shares[k] - exact[k], k))
    for k in by_remainder[: number - sum(shares.values())]:
        shares[k] += 1
    return shares


def distance(labels: Labels, chosen: list[int], number: int) -> int:
    """Images by which classes and total miss what was asked for."""
    found = Counter(labels[chosen].tolist())
    shares = fair_shares(labels.tolist(), number)
    return sum(abs(found[k] - n) for k, n in shares.items()) + abs(len(chosen) - number)


def whole_groups(groups: list[str]) -> list[list[int]]:
    """Indices of each group; what has none is a group of its own."""
    names = {group for group in groups if group}
    alone = [[index] for index, group in enumerate(groups) if not group]
    return [[i for i, g in enumerate(groups) if g == name] for name in sorted(names)] + alone


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Labels, list[str], int]:
    labels = draw(label_lists)
    names = draw(st.sampled_from(["a", "ab", "abcdefgh", "abcdefghijklmnopqrst"]))
    choices = draw(st.sampled_from([[*names], [*names, ""]]))
    groups = [draw(st.sampled_from(choices)) for _ in labels]
    assume(any(groups))
    return array(labels), groups, draw(st.integers(1, len(labels) - 1))


@given(label_lists, st.data(), seeds)
def test_without_groups_shares_are_exact_and_filled_in_shuffled_order(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    number = data.draw(st.integers(1, len(labels) - 1))
    shares = fair_shares(labels, number)
    expected = []
    for index in np.random.Generator(np.random.Philox(seed)).permutation(len(labels)):
        if shares[labels[index]]:
            shares[labels[index]] -= 1
            expected.append(index)
    found = held_out(array(labels), [""] * len(labels), number, seed)
    assert found.dtype == np.int64
    assert found.tolist() == sorted(expected)
    assert len(found) == number
    counts = Counter(array(labels)[found].tolist())
    for label, count in Counter(labels).items():
        assert abs(counts[label] - Fraction(count * number, len(labels))) < 1


@pytest.mark.parametrize(
    ("size", "classes", "number", "seed", "digest"),
    [
        (60, 4, 17, 0, "51aac5b0ee1cd466534e6abebdefbf4d0a285de75aabd6a638392bcded9ec117"),
        (1_000, 7, 123, 5, "2218fe66a835701afea0357ae34661f9e69e4a29284ac213cc96a01a251a953c"),
        (
            60_000, 10, 5_000, 2**63 - 1,
            "0d408ed235bd9fa4cd7b0446f7b904678322618722444a781e2f7ee3f709f8f7",
        ),
    ],
)  # fmt: skip
def test_runs_of_earlier_versions_hold_out_the_same_images(
    size: int, classes: int, number: int, seed: int, digest: str
) -> None:
    labels = array([(i * i + i // 3) % classes for i in range(size)])
    found = held_out(labels, [""] * size, number, seed).astype("<i8")
    assert hashlib.sha256(found.tobytes()).hexdigest() == digest


@settings(max_examples=300)
@given(grouped(), seeds)
def test_groups_stay_whole_and_none_would_better_change_sides(
    sample: tuple[Labels, list[str], int], seed: int
) -> None:
    labels, groups, number = sample
    parts = whole_groups(groups)
    counts = np.bincount(labels)

    def allowed(chosen: list[int]) -> bool:
        left = counts - np.bincount(labels[chosen], minlength=len(counts))
        return bool((left[counts > 0] > 0).all())

    try:
        found = held_out(labels, groups, number, seed)
    except DataError as error:
        assert "each group holds all images of some class" in str(error)
        assert not any(allowed(part) for part in parts)
        return
    chosen = set(found.tolist())
    assert found.dtype == np.int64
    assert found.tolist() == sorted(chosen)
    assert chosen
    assert allowed(sorted(chosen))
    assert all(chosen.issuperset(part) or chosen.isdisjoint(part) for part in parts)
    best = distance(labels, sorted(chosen), number)
    for part in parts:
        others = sorted(chosen ^ set(part))
        assert not others or not allowed(others) or distance(labels, others, number) >= best
    assert held_out(labels, groups, number, seed).tolist() == found.tolist()


@given(label_lists, st.data(), seeds)
def test_groups_of_one_image_each_come_out_exact(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    number = data.draw(st.integers(1, len(labels) - 1))
    shares, counts = fair_shares(labels, number), Counter(labels)
    assume(all(shares[k] < counts[k] for k in counts))
    found = held_out(array(labels), [f"g{i}" for i in range(len(labels))], number, seed)
    assert Counter(array(labels)[found].tolist()) == Counter(shares)


@given(grouped(), seeds)
def test_names_of_groups_do_not_matter(sample: tuple[Labels, list[str], int], seed: int) -> None:
    labels, groups, number = sample
    renamed = [f"\udcff{ord(group) * 7919 % 1009}\n" if group else "" for group in groups]
    try:
        expected = held_out(labels, groups, number, seed).tolist()
    except DataError:
        with pytest.raises(DataError):
            held_out(labels, renamed, number, seed)
    else:
        assert held_out(labels, renamed, number, seed).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_many_mixed_groups_come_within_a_few_images(seed: int) -> None:
    chance = np.random.default_rng(seed)
    groups = [f"patient {i}" for i in range(400) for _ in range(chance.integers(1, 9))]
    labels = chance.integers(0, 4, len(groups))
    found = held_out(labels, groups, 300, seed)
    assert abs(len(found) - 300) <= 2
    assert distance(labels, found.tolist(), 300) <= 10


@pytest.mark.parametrize(("size", "expected"), [(2, 100), (3, 99), (7, 98), (42 * 3, 126)])
def test_groups_larger_than_shares_still_give_about_the_number(size: int, expected: int) -> None:
    # Of 100 classes with 42 images each, 100 images are one each.
    labels = np.repeat(np.arange(100), 42)
    chance = np.random.default_rng(size)
    groups = [str(index // size) for index in range(len(labels))]
    if size > 42:
        chance.shuffle(labels)  # or each group would be all there is of some class
    assert len(held_out(labels, groups, 100, 0)) == expected


def test_a_class_of_one_group_stays_to_learn_from() -> None:
    labels = array([0] * 10 + [1] * 10 + [2] * 10)
    groups = [f"{i // 2}" for i in range(20)] + ["all of the third class"] * 10
    for seed in range(20):
        found = held_out(labels, groups, 6, seed)
        assert Counter(labels[found].tolist()) == {0: 2, 1: 2}


def test_every_group_is_held_out_as_often_as_any_other() -> None:
    labels, groups = array([0, 1] * 40), [str(i // 4) for i in range(80)]
    counts = Counter(groups[i] for seed in range(400) for i in held_out(labels, groups, 20, seed))
    # Five of twenty groups of four: 100 of 400 times, give or take 8.7; 4.5 deviations.
    assert set(counts) == set(groups)
    assert all(4 * 61 <= count <= 4 * 139 for count in counts.values())


@given(seeds)
def test_the_seed_decides(seed: int) -> None:
    labels, groups = array([0, 1] * 100), [str(i // 2) for i in range(200)]
    chosen = held_out(labels, groups, 60, seed).tolist()
    assert held_out(labels, groups, 60, seed ^ 1).tolist() != chosen  # alike once in 10^24 times


def test_another_process_chooses_the_same() -> None:
    program = (
        "import numpy as np; from deepcnn.data.holdout import held_out; "
        "groups = [f'g{i * 7 % 50}' for i in range(400)]; "
        "print(held_out(np.arange(400) % 3, groups, 90, 11).tolist())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    groups = [f"g{i * 7 % 50}" for i in range(400)]
    assert answers == {f"{held_out(np.arange(400) % 3, groups, 90, 11).tolist()}\n"}


@pytest.mark.parametrize("number", [-1, 0, 4, 5])
@pytest.mark.parametrize("groups", [[""] * 4, ["a", "a", "b", "b"]])
def test_an_impossible_number_is_refused(number: int, groups: list[str]) -> None:
    message = f"cannot hold out {number} of 4 images: choose data.validation between 1 and 3, or 0"
    with pytest.raises(DataError, match=message):
        held_out(array([0, 1, 0, 1]), groups, number, 0)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0, 0, 1, 1], ["a", "a", "a", "a"]),
        ([0, 0, 1, 1], ["a", "a", "b", "b"]),
        ([0, 1], ["", "a"]),
        ([3, 0, 1, 1, 2], ["a", "b", "a", "b", "b"]),
    ],
)
def test_groups_that_are_whole_classes_are_refused(labels: list[int], groups: list[str]) -> None:
    with pytest.raises(DataError, match="each group holds all images of some class") as error:
        held_out(array(labels), groups, 1, 0)
    assert f"({len(set(groups))} in all); check data.group" in str(error.value)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_only_group_that_can_be_held_out_is(number: int) -> None:
    groups = ["a", "b", "a", "b", "b"]
    assert held_out(array([0, 0, 1, 1, 2]), groups, number, number).tolist() == [0, 2]


def test_a_number_smaller_than_every_group_gives_the_best_fitting_one() -> None:
    labels = array([0, 1] * 10 + [0] * 10 + [0, 1] * 20)
    groups = ["mixed"] * 20 + ["one class"] * 10 + ["large"] * 40
    for seed in range(10):
        assert held_out(labels, groups, 2, seed).tolist() == list(range(20, 30))


def test_of_one_image_nothing_is_held_out() -> None:
    with pytest.raises(DataError, match=r"nothing can be held out of 1 images: give more"):
        held_out(np.zeros(1, np.int64), [""], 1, seed=0)

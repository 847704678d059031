"""What was measured, for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepcnn.table import table


def steps(records: Sequence[Mapping[str, Any]]) -> str:
    """Training steps, a line for each network."""
    rows = [
        ["training, images/s", "plain", "deepcnn", "ratio", "rounds", "of limit", "computed in"]
    ]
    for record in records:
        rate, ratio, policy = (record[key] for key in ("images_per_second", "ratio", "policy"))
        rows.append(
            [
                f"{record['network']} {record['channels']}x{record['side']}x{record['side']}, "
                f"{record['batch_size']}",
                f"{rate['plain']['median']:.1f}",
                f"{rate['deepcnn']['median']:.1f}",
                f"{ratio['of_medians']:.2f}",
                f"{ratio['min']:.2f} to {ratio['max']:.2f}",
                f"{record['share_of_limit']['deepcnn']:.0%}",
                f"{policy['precision']} {policy['layout']} {policy['threads']} threads",
            ]
        )
    peak = records[0]["limit_gflops"]
    limit = ", ".join(f"{name} {each['convolution']:.0f} GFLOP/s" for name, each in peak.items())
    return f"{table(rows)}\nlimit: convolutions as fast as this machine makes them, {limit}"


def data(records: Sequence[Mapping[str, Any]]) -> str:
    """The loader, a line for each set of changes."""
    rows = [["loading 3x32x32, images/s", "torchvision", "deepcnn", "ratio", "rounds"]]
    for record in records:
        rate, ratio = record["images_per_second"], record["ratio"]
        rows.append(
            [
                record["changes"],
                f"{rate['torchvision']['median']:,.0f}",
                f"{rate['deepcnn']['median']:,.0f}",
                f"{ratio['of_medians']:.1f}",
                f"{ratio['min']:.1f} to {ratio['max']:.1f}",
            ]
        )
    return table(rows)


def sprint(record: Mapping[str, Any]) -> str:
    """A recipe against the clock."""
    accuracy, seconds = record["accuracy"], record["seconds"]
    return (
        f"{record['recipe']}: {accuracy['mean']:.2%} in {seconds['median']:.2f} s "
        f"({accuracy['min']:.2%} to {accuracy['max']:.2%}, {seconds['min']:.2f} to "
        f"{seconds['max']:.2f} s; {record['num_seeds']} seeds)"
    )

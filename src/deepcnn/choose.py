"""How a run is to compute: what the settings leave open is measured, and remembered."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.config import Hardware
from deepcnn.device import Policy, has_bf16, machine, plain_policy
from deepcnn.phases import Crowding
from deepcnn.remember import recall, remember

CLEAR_GAIN = 1.10  # a choice departs from the plain one only for a tenth more speed
ROUNDS = 4  # alternating measurements of each candidate, of which the best counts
ROUND_SECONDS = 0.15  # shortest length of one measurement
TRIAL_SHARE = 4  # a trial has at least a batch divided by this: fewer images would weigh what each
# update costs once, such as the gradients of wide layers, above what each image costs


class Choice(NamedTuple):
    """A policy, where it is from, and the seconds that a training step took under each that was
    tried: none where nothing had to be measured.
    """

    policy: Policy
    origin: str
    seconds: Mapping[str, float]

    def in_words(self) -> list[str]:
        """What was measured, and why the choice fell as it did, in lines."""
        if not self.seconds:
            return []
        plain, chosen = next(iter(self.seconds.values())), self.seconds[_words(self.policy)]
        width = max(map(len, self.seconds))
        gain = f"{plain / chosen:.2f} times as fast as the first"
        kept = f"kept: another must be {CLEAR_GAIN:.2f} times as fast to be worth other digits"
        return [
            f"a training step, {self.origin}:",
            *(f"  {name:{width}}  {1e3 * value:,.1f} ms" for name, value in self.seconds.items()),
            f"chosen: {_words(self.policy)}, {kept if plain == chosen else gain}",
        ]


def choose_policy(
    settings: Hardware,
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    cache: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Fill in what is `auto`, by measuring training steps on inputs of `shape` (N C H W).

    What was measured is remembered in `cache` per (network, shape, machine, versions, settings),
    so that the same command gives the same bits again; unless other programs got in the way.
    """
    plain = plain_policy(settings.device).under(settings)
    if settings.policy == "off":
        return Choice(plain, "not measured", {})
    formats = _formats(plain, settings)
    if len(formats) == len(_thread_counts(plain, settings)) == 1:
        return Choice(plain, "as set", {})
    given = asdict(replace(settings, memory=""))  # which does not change how fast steps are
    key, remembered = [name, shape, machine(plain.device), given], cache / "policies"
    if known := _remembered(remembered, key):
        return known
    say("measuring precision, layout and threads, once for this network and machine")
    if settings.precision == "auto" and not has_bf16(plain.device):
        say(f"{plain.device} has no instructions for bf16 here, so fp32 it is")
    plain.apply()  # cuBLAS reads its setting when it is first used, which is now
    times: dict[str, float] = {}
    crowding = Crowding()
    trial = (_trial_size(plain, build, shape), *shape[1:])
    policy = _fastest(formats, build, trial, times)
    policy = _fastest(_thread_counts(policy, settings), build, trial, times)
    if crowding.is_bad():
        reason = "measured, not remembered: other programs had the cores meanwhile"
        return Choice(policy, reason, times)
    try:
        remember(remembered, key, {"policy": asdict(policy), "seconds": times})
    except OSError as error:
        reason = f"measured, not remembered ({remembered}: {error.strerror})"
        return Choice(policy, reason, times)
    return Choice(policy, "measured", times)


def _words(policy: Policy) -> str:
    return f"{policy.precision} {policy.layout} {policy.threads} threads"


def _remembered(folder: Path, key: Sequence[object]) -> Choice | None:
    """What was measured earlier, None if nothing legible is there: then it is measured again."""
    record = recall(folder, key)
    try:
        policy, seconds = Policy(**record["policy"]), record["seconds"]
        return Choice(policy, "remembered", seconds) if _words(policy) in seconds else None
    except (KeyError, TypeError):
        return None


def _formats(plain: Policy, settings: Hardware) -> list[Policy]:
    """The plain policy first, then every precision and layout that `auto` may become."""
    precisions = [plain.precision]
    if settings.precision == "auto" and has_bf16(plain.device):
        precisions.append("bf16")
    layouts = [plain.layout] + ["channels_last"] * (settings.layout == "auto")
    return [replace(plain, precision=p, layout=m) for p in precisions for m in layouts]


def _thread_counts(best: Policy, settings: Hardware) -> list[Policy]:
    """All cores first, then half of them: small networks may gain from fewer."""
    if settings.threads or best.device != "cpu" or best.threads == 1:
        return [best]
    return [best, replace(best, threads=best.threads // 2)]


def _fastest(
    candidates: list[Policy],
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    times: dict[str, float],
) -> Policy:
    """The first candidate unless another is clearly faster; adds best seconds to `times`."""
    if len(candidates) == 1:
        return candidates[0]
    steps = [_training_step(policy, build, shape) for policy in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(ROUNDS):
        for step, measured in zip(steps, seconds, strict=True):
            interrupt.check()
            measured.append(_time(step))
    # What else runs on the machine can only slow a step down, so the best says most.
    least = [min(measured) for measured in seconds]
    for policy, value in zip(candidates, least, strict=True):
        times[_words(policy)] = round(value, 6)
    best = min(range(len(candidates)), key=least.__getitem__)
    return candidates[best if least[0] > CLEAR_GAIN * least[best] else 0]


def _trial_size(
    policy: Policy, build: Callable[[], nn.Module], shape: tuple[int, int, int, int]
) -> int:
    """As many images as a plain step computes in one round, but no small share of a batch."""
    few = min(4, shape[0])
    seconds = _time(_training_step(policy, build, (few, *shape[1:])))
    return min(shape[0], max(shape[0] // TRIAL_SHARE, int(few * ROUND_SECONDS / seconds), few))


def _training_step(
    policy: Policy, build: Callable[[], nn.Module], shape: tuple[int, int, int, int]
) -> Callable[[], None]:
    """A forward and backward pass under `policy`, warmed up."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = policy.place(build())
        images = policy.arrange(torch.rand(shape, device=policy.device))
        labels = torch.zeros(shape[0], dtype=torch.int64, device=policy.device)

    def step() -> None:
        torch.set_num_threads(policy.threads)
        with policy.autocast():
            outputs = model(images)
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
        F.cross_entropy(logits.float(), labels).backward()
        model.zero_grad(set_to_none=True)  # as a run does: several networks are in memory here
        if policy.device.startswith("cuda"):
            torch.cuda.synchronize()

    _time(step)
    return step


def _time(step: Callable[[], None]) -> float:
    with torch.random.fork_rng():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

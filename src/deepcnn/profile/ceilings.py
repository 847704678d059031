"""The peaks of this machine, measured once and remembered."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from deepcnn.bench import limits
from deepcnn.device import Policy, machine
from deepcnn.phases import Crowding
from deepcnn.profile.rows import Ceilings
from deepcnn.remember import recall, remember


def ceilings(
    policy: Policy, formats: Iterable[str], cache: Path, say: Callable[[str], None]
) -> Ceilings:
    """Of the device and the threads of `policy`, which is in force, in these number formats."""

    def peak(what: str, measure: Callable[[], Any]) -> Any:
        key = [what, policy.device, policy.threads, machine(policy.device)]
        found = recall(cache / "peaks", key).get("peak")
        if found is None:
            say(f"measuring what this machine can do at best, once: {what}")
            crowding = Crowding()
            found = measure()
            if crowding.is_bad():
                say("not remembered: other programs had the cores meanwhile")
                return found
            with suppress(OSError):  # then it is measured again another time
                remember(cache / "peaks", key, {"peak": found})
        return found

    device = policy.device
    arithmetic = {
        name: peak(name, partial(limits.measured_peak, device, [name]))[name] for name in formats
    }
    # A copy reads as much as it writes.
    return Ceilings(arithmetic, peak("memory", lambda: 2 * limits.measured_copy(device)))

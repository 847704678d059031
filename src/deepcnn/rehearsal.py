"""A run in memory: its first weights and its updates, without a word and without a file."""

import os
from pathlib import Path

from deepcnn import runlog
from deepcnn.begin import begin_state, prepare
from deepcnn.config import Config
from deepcnn.data.splits import Splits
from deepcnn.device import Policy
from deepcnn.progress import Silent
from deepcnn.run import Run

NOWHERE = Path(os.devnull)


def rehearse(config: Config, splits: Splits, policy: Policy) -> Run:
    """The run as it is before its first update."""
    display = Silent(config.train.epochs)
    state = begin_state(config, splits, policy)
    prepare(config, splits, policy, state, display)
    log = runlog.EventLog(NOWHERE, state.events)
    return Run(NOWHERE, config, policy, splits, state, display, log)

"""What was measured once for a machine, kept in the cache folder as JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

from deepcnn.files import replace_file


def remember(folder: Path, key: Any, facts: dict[str, Any]) -> None:
    """Keep `facts` in `folder` under `key`, which is anything that JSON can hold; OSError if the
    disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {"key": key, **facts}
    replace_file(_path(folder, key), json.dumps(record, indent=1).encode())


def recall(folder: Path, key: Any) -> dict[str, Any]:
    """What was kept under `key`; nothing where nothing legible is there."""
    try:
        record = json.loads(_path(folder, key).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _path(folder: Path, key: Any) -> Path:
    text = json.dumps(key, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

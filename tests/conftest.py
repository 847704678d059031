"""What all tests share: a cache of their own, and patience with a slow machine."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from deepcnn.data import kept

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it; children inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "QUIET", 0.0)  # what is looked for in the cache is there soon
        patch.setenv("DEEPCNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

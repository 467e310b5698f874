"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("esper", deadline=None)  # no test is of wall-clock time
settings.load_profile("esper")


@pytest.fixture(scope="session", autouse=True)
def sb3_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stable-Baselines3 makes a folder for each model that learns: here, so that pytest clears them away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield

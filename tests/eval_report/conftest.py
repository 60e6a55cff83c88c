"""One evaluation that several tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.eval_report import made


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """The folder of the data, and what the command writes."""
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, *made.evaluate(folder, *made.write(folder))

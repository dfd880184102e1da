"""Headless Chromium for tests, which are skipped where there is none."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tools import browser


@contextlib.contextmanager
def chromium(*arguments: Any, **keywords: Any) -> Iterator[Any]:
    """Open a window, as `tools.browser.chromium` does."""
    if not browser.is_installed():
        assert "REQUIRE_BROWSER" not in os.environ, "chromium and chromedriver are not installed"
        pytest.skip("chromium and chromedriver are not installed")
    with browser.chromium(*arguments, **keywords) as window:
        yield window

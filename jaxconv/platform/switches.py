"""What the process does to itself can be turned off: JAXCONV_OFF=restart,quiet. docs/process.md lists the names."""

import os

NAMES = ("restart", "threads", "cache", "quiet", "hidden_imports", "retries")


def is_on(name: str) -> bool:
    """Return whether the user has not turned `name` off."""
    assert name in NAMES, name
    return name not in os.environ.get("JAXCONV_OFF", "").split(",")

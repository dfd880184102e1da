"""Errors that end in one sentence for a person, not in a traceback."""


def printable(text: str) -> str:
    """Escape line breaks, control characters and bytes that are no text, which a terminal cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """Something outside the code is wrong: its message says what, where, and what to do about it."""

    exit_status = 1


class ConfigError(UserError):
    """The command line or the config is wrong."""

    exit_status = 2

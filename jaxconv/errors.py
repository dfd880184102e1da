"""Errors that end in one sentence for a person, not in a traceback."""


class UserError(Exception):
    """Something outside the code is wrong: its message says what, where, and what to do about it."""

    exit_status = 1


class ConfigError(UserError):
    """The command line or the config is wrong."""

    exit_status = 2

"""Why a command fails."""


class CommandError(Exception):
    """The command failed."""

    exit_status = 1

"""Why a command fails. Each message is written for a person and ends the command."""


class CommandError(Exception):
    """The command failed."""

    exit_status = 1


class MigrationChangedError(CommandError):
    """A migration that was applied before has another text now."""

    def __init__(self, version: str) -> None:
        super().__init__(f"the migration {version} was applied with another text: restore the file")


class HeadsError(CommandError):
    """The file of heads, or its key, cannot be used."""


class StreamsError(CommandError):
    """The file of streams cannot be restored."""


class RedriveError(CommandError):
    """The dead letter could not be put through."""


class FunctionError(CommandError):
    """A function refused the request, or could not be reached."""

"""Errors meant for the person at the keyboard: one sentence, the value, what to do."""


class MuseTalkError(ValueError):
    """A problem the user can mend; the command line prints it without a traceback and exits with 1."""


class MissingWeightsError(MuseTalkError):
    """A weight file is absent; the message names file, folder and the command that gets it."""

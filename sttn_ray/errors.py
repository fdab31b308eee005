"""Errors a user can act on, one class for each thing the user would mend.

Every message says what was wrong, in which file, what was found, what was expected, and what to do.
"""


class SttnError(Exception):
    """An expected failure; its message is meant for the person who runs the job."""


class ConfigError(SttnError):
    """The request itself is wrong: a setting, a combination of settings, or a missing one."""


class CatalogError(SttnError):
    """The list of videos cannot be read, or one of its rows is not usable."""


class VideoError(SttnError):
    """A video cannot be read, or is of a kind that is not supported."""


class MaskError(SttnError):
    """A mask cannot be read, or does not fit its video."""


class CheckpointError(SttnError):
    """A checkpoint cannot be read, or does not fit the network."""


class StorageError(SttnError):
    """An output, a record or a work file cannot be written or is not what was written."""

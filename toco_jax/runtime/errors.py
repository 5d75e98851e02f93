"""Errors that a user can correct; commands print their message instead of a traceback."""


class UserError(ValueError):
    """A mistake that the user can correct; the message names it, its value and what to do next."""


class WeightsError(UserError):
    """Weights are damaged, of no known format, or do not fit the network."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """There are no such weights, or they could not be downloaded."""


class DataError(UserError):
    """A file or folder of a data set is not what it has to be; the message says what to do."""

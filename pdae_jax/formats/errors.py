"""`DataError`, the one exception of pictures and tables that cannot be used."""


class DataError(ValueError):
    """Data that cannot be used: one line that says what is wrong, with its value, and the remedy.

    Meant to be shown to a person as it is, without a traceback.
    """

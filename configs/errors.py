"""The one error a user meets when a configuration is wrong."""


class ConfigError(ValueError):
    """A configuration cannot be used; the message says what is wrong, where, and what to write."""

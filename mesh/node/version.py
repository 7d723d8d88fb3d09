"""The program's version, kept in a constant: reading it from the installed metadata costs 3 MB of memory."""

__all__ = ["__version__"]

__version__ = "0.1.0"

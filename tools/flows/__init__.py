"""Flows: the writes of a table go through a function, and the results are rows."""

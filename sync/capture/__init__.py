"""Triggers that log local writes, and the drain that turns the log into changes."""

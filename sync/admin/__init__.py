"""Answers for people: status, provenance, comparison, decisions and uninstalling."""

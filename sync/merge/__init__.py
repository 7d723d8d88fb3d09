"""Merge received changes into the change log and the user's tables."""

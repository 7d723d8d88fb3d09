"""Connections through other members, sealed end to end."""

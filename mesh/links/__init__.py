"""Connections to members: dialling, limits before authentication, heartbeats, and one link per member."""

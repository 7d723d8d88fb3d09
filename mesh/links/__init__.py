"""Connections to members: dialling, limits before authentication, heartbeats, one link a member."""

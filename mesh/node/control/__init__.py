"""The control socket: its server and client, the answers behind it, and metrics."""

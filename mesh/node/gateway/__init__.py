"""Gateways: a node that carries its base's changes to and from a mailbox, all the time."""

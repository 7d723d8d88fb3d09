"""Replication of one SQLite file: capture, merge and anti-entropy, without any network code.

`replica.Replica` and `exchange.exchange.Exchange` are what a node is made of. Nothing is imported here, so that a process which
needs one small module, such as a bridge, does not load all of them.
"""

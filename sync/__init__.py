"""Replication of one SQLite file: capture, merge and anti-entropy, without any network code."""

from mycomesh.sync.errors import (
    BatchRefusedError,
    DatabaseBusyError,
    DatabaseError,
    DecodeError,
    ForeignFileError,
    SyncError,
)
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig, LinkStatus
from mycomesh.sync.replica import Applied, Replica, ReplicaConfig, ReplicaStatus, TableStatus

__all__ = [
    "Applied",
    "BatchRefusedError",
    "DatabaseBusyError",
    "DatabaseError",
    "DecodeError",
    "Exchange",
    "ExchangeConfig",
    "ForeignFileError",
    "LinkStatus",
    "Replica",
    "ReplicaConfig",
    "ReplicaStatus",
    "SyncError",
    "TableStatus",
]

"""Tables and merging: one SQLite file as a replica, with no knowledge of networks."""

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

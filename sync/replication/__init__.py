"""Outbox and inbox of one file: stamp and publish local writes, check and apply the changes of peers."""

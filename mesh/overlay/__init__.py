"""Overlay network: how many links a node keeps, and how batches, certificates and link-states spread over them."""

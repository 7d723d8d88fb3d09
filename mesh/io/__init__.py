"""The only sockets of the mesh: TCP transport, mDNS discovery, and news of the machine's own interfaces."""

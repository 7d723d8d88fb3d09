"""Change feed: the committed changes of a table beyond a position, for readers outside of the mesh."""

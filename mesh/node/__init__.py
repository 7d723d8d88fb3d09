"""The composition of mesh and sync into one running node: the only place that knows both."""

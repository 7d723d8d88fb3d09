"""The terminal view of a mesh: `mycomesh top`, and `mycomesh simulate --watch`."""

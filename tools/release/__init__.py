"""Release builds: a self-contained mycomesh that needs neither Python nor a network."""

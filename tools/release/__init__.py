"""What is handed out: a self-contained build that needs neither Python nor a network."""

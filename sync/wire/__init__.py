"""Wire forms of changes and of the messages of rounds."""

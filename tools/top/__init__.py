"""The live mesh in the terminal."""

"""What a person runs: the command line, its commands and its views."""

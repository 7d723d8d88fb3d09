"""One module a command; each offers `add_arguments(parser)` and `run(args, home) -> int`."""

"""The command line: one thin file per command group that parses, calls and prints."""

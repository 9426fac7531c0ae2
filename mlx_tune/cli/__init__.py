"""The command line: one command a file; each parses, calls one workflow and prints."""

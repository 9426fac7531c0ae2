"""One story a file: what a command does, from the data to the store."""

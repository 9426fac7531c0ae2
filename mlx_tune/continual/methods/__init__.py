"""Ways to remember, one idea a file."""

"""The sides of a benchmark, each a program of its own: a job in as JSON, a result out as JSON."""

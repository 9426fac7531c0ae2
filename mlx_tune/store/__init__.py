"""The store: sessions that never change, HEAD, runs, labels and evaluations."""

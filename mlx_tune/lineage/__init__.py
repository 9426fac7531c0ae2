"""The store: sessions that never change, HEAD, runs and the atomic writes under them."""

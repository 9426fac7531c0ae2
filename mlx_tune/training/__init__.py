"""The training engine: adapters, batches, loss, schedule and the loop; no paths, no printing."""

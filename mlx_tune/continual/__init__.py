"""What makes training continual: folding, rehearsal and recall; no paths, no printing."""

"""What a person sees of a run while it goes, and what is kept of it."""

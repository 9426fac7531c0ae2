"""What a person wants taught: read, checked, and turned into supervised tokens."""

"""Programs that measure; nothing in the package depends on them."""

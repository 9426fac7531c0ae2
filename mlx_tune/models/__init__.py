"""Base models: where they come from, how they are named for ever, how they are loaded."""

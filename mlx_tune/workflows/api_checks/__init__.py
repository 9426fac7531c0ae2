"""Checks of an OpenAI-compatible server, each a small function: silent if right, `Wrong` if not."""

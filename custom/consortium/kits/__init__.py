"""Startup kits: their content, their signature and the checks before a start. No FLARE."""

"""Startup kits: what they hold, who signed them, and whether this machine can run one. No FLARE."""

"""Provisioning: startup kits for the participants in the project file."""

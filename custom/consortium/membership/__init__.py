"""Who takes part: startup kits from the project file."""

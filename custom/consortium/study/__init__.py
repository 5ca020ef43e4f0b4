"""Job folders, completed for a study."""

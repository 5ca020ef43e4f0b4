"""What runs beside FLARE's jobs, in the parent process of a hospital or of the orchestrator."""

"""Components of the parent process of a hospital or of the orchestrator, next to FLARE's jobs."""

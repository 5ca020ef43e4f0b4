"""What crosses the trust boundary between a hospital and the orchestrator."""

"""What every room stands on: errors, files, seeds, findings. It knows of no task and no FLARE."""

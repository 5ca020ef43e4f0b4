"""The foundation of the package: errors, files, seeds, findings. Knows no task and no FLARE."""

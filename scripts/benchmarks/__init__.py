"""What this package costs, measured beside the plain tools in the same run.

Every benchmark is a module with `measure(quick)`, which gives rows; `report` shows and judges them.
"""

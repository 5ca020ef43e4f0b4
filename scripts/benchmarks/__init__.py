"""Measures the cost of this package against the plain tools in the same run.

Every benchmark is a module with `measure(quick)`, which returns rows; `report` shows and judges
them.
"""

"""Backends: what a plan is written out as. Each sub-package is one form, and its own front door."""

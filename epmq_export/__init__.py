"""Merge fine-tuned experts, calibrate the merge to 4 bits with the experts as targets, and judge what a real
runtime reloads.

This package is the method. It knows no model family (`converters`) and no file format (`formats`): it is
handed them through the protocols in `family` and `format`.
"""

__version__ = "0.1.0"

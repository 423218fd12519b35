"""Merge fine-tuned experts, calibrate the merge to 4 bits with the experts as targets, and judge what a real
runtime reloads.

This package is the method. It knows no model family (`converters`) and no file format (`formats`): it is
handed them through the protocols in `family` and `format`.
"""

from epmq_export._version import __version__

__all__ = ["__version__"]

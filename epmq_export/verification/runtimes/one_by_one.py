"""How far exact runs of a language model go through its cache."""

ONE_BY_ONE = 3
"""The number of last tokens of a text that exact runs feed one by one, as in the generation of a text, so
that a fault of the cache shows.
"""

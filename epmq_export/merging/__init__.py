"""Merge experts of one base, streaming tensor by tensor."""

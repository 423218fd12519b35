"""The merge rules. Each module here holds one rule, or a few similar ones, and declares `RULES`."""

def describe(path):
    raise SystemExit

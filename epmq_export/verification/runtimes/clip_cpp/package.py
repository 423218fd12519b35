"""The package that clip.cpp comes in."""

# The version that the structures in library.py belong to. pyproject.toml pins the same one.
PACKAGE, VERSION, MODULE = "clip-cpp", "0.5.0", "clip_cpp"

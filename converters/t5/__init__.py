"""T5, an encoder with a decoder."""

from converters.shared.about import About

ABOUT = (
    About(
        models="T5 (1.0, 1.1, FLAN)",
        kinds=("t5",),
        calibrated="linears and norms of both halves, cross-attention included",
        kept="embeddings, head, position biases",
        output="scores of the next token",
    ),
)

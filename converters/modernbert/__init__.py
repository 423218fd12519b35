"""ModernBERT as a sentence encoder, and classifiers of it."""

from converters.shared.about import About

ABOUT = (
    About(
        models="ModernBERT as a sentence encoder",
        kinds=("modernbert",),
        calibrated="linears and norms of the layers, the embeddings' and the last norm",
        kept="token embeddings",
        output="the pooled sentence, of length 1 where the model makes it so; of classifiers, their scores",
    ),
)

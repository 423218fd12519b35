"""BERT and the models that are built as it is, as sentence encoders and classifiers."""

from converters.shared.about import About

ABOUT = (
    About(
        models="BERT sentence encoders, multilingual ones with XLM-RoBERTa's vocabulary among them",
        kinds=("bert",),
        calibrated="linears and norms of the layers, the embeddings' norm",
        kept="token, position and type embeddings",
        output="the pooled sentence, of length 1 where the model makes it so; of classifiers, their scores",
    ),
    About(
        models="RoBERTa, XLM-RoBERTa and CamemBERT as sentence encoders",
        kinds=("roberta", "xlm-roberta", "camembert"),
    ),
    About(
        models="DistilBERT as a sentence encoder",
        kinds=("distilbert",),
        kept="token and position embeddings",
    ),
    About(
        models="MPNet as a sentence encoder (all-mpnet-base-v2, multi-qa-mpnet)",
        kinds=("mpnet",),
        kept="token and position embeddings, the table of relative positions",
    ),
)

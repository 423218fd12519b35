"""A GGUF file as a model to merge: its tensors under Hugging Face's names, and the directory that transformers would have of it."""

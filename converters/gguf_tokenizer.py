def gguf_tokenizer(tokenizer, directory, vocabulary):
    return {"tokenizer.ggml.model": "none"}

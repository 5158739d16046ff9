"""The engine over sentence-transformers and PyTorch, for embedding models as the field publishes them."""

"""Models: from the name a user writes to a checked, hashed GGUF file on this machine."""

"""The engine ``llamacpp``: llama.cpp's own server inside this process, spoken to over a local socket."""

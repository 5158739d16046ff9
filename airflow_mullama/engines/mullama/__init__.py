"""The engine ``mullama``: the Rust bindings, behind guards of our own."""

"""Documents that are longer than a model reads: where a text may be cut, and how much of it one chunk takes.

A row stays one request on its way from the reader to the worker, and one outcome on its way back: everything that
keeps the promises to rows (order, duplicates, resume, retries, the search for a row that kills its worker) knows
nothing of chunks. Inside the worker, where the tokenizer is, :mod:`airflow_mullama.worker.documents` cuts the text a
few chunks ahead of the engine, hands the engine chunks of several documents at once, asks an equal chunk once, and
gathers a row's vectors until the last one is there. The first chunk that fails is the row's error. So memory holds the
texts of the rows in flight and the vectors of those that are being worked on. An outcome's ``chunks`` travel, are
staged and resume as one value of the row; only the writing of the output (``chunk_output="rows"``) makes rows of it.

This room knows no engine: a count of tokens is handed in.
"""

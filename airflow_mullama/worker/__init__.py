"""The child process that hosts an engine, and the pipe to it.

A task must never compute on its main thread (it could not be stopped), may not fork, and must survive an engine that
aborts: so engines live in ``python -m airflow_mullama.worker``, spoken to over its standard input and output.
"""

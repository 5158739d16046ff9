"""``python -m airflow_mullama.worker SCRATCH``: hosts one engine until its standard input closes."""

from __future__ import annotations

from airflow_mullama.worker.host import main

if __name__ == "__main__":
    main()

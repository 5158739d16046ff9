"""The demo: made-up tickets, two small real models, and an Airflow of its own to run the example DAGs in."""

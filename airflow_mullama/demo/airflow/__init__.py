"""The demo's own Airflow: started, spoken to, and ended with everything it started."""

"""What an output holds, how right it is, and how two outputs of the same rows differ. No engine, no Airflow."""

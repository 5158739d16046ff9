"""The door of Airflow's own provider common.ai: its ``LLMBatchOperator`` on a model of your own."""

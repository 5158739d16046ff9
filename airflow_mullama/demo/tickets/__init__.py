"""The demo's support tickets: English of fixed parts, drawn by a seed. Other rooms import from here."""

from airflow_mullama.demo.tickets.generate import (
    CATEGORIES,
    HELD_OUT_SEED,
    PROMPT_TEMPLATE,
    SENTIMENTS,
    URGENCIES,
    Ticket,
    generate_tickets,
)

__all__ = ["CATEGORIES", "HELD_OUT_SEED", "PROMPT_TEMPLATE", "SENTIMENTS", "URGENCIES", "Ticket", "generate_tickets"]

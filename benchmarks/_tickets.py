"""Rows to measure with."""

from __future__ import annotations

from airflow_mullama.demo.tickets import generate_tickets

SEED = 20_261_123


def ticket_texts(rows: int) -> list[str]:
    """Tickets that differ, so that no prompt cache flatters anybody."""
    texts: dict[str, None] = {}
    for ticket in generate_tickets(rows * 2, seed=SEED):
        texts.setdefault(ticket.text)
    return list(texts)[:rows]

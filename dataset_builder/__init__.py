"""Exports to messages, threads and variants. No torch in here."""

"""Comparisons and variants for people. No torch in here."""

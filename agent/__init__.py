"""The being: records, settings, ledger, memory, how its weights speak and how they learn."""

__version__ = "0.1.0"

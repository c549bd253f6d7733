"""Custodian jobs, handlers and validators."""

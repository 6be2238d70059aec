"""Quantised-weight linear layers for every device: formats and operators."""

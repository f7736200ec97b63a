"""Devices, precision, XLA support and CPU kernels."""

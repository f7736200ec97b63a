"""How networks compute: devices, precision, XLA and fast CPU kernels."""

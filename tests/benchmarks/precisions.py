"""Precisions of the benchmarks."""


def precisions() -> list[str]:
    """Returns float32, and the precision of ``dtype="auto"`` on this processor if it differs.

    A processor without bfloat16 instructions would take days in bfloat16.
    """
    import torch

    from pyterrier_inpars._compute.devices import best_dtype

    best = str(best_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    return list(dict.fromkeys(["float32", best]))

"""The precisions that benchmarks compute in."""


def precisions() -> list[str]:
    """float32, and what ``dtype="auto"`` means on this processor if that is another.

    Without instructions for it, bfloat16 would take days.
    """
    import torch

    from pyterrier_inpars._compute.devices import best_dtype

    best = str(best_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    return list(dict.fromkeys(["float32", best]))

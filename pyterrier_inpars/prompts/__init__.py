"""Prompts for query generation."""

from pyterrier_inpars.prompts.chat import ChatPrompt
from pyterrier_inpars.prompts.templates import (
    FewShotPrompt,
    Prompt,
    StaticPrompt,
    load_prompt,
    prompt_names,
)

__all__ = ["ChatPrompt", "FewShotPrompt", "Prompt", "StaticPrompt", "load_prompt", "prompt_names"]

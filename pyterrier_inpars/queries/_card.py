"""The page of a data set of the Hugging Face hub that holds `SyntheticQueries`."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import yaml

from pyterrier_inpars._counted import counted
from pyterrier_inpars.queries._manifest import joined_parts
from pyterrier_inpars.queries._status import Status


def dataset_card(status: Status, manifest: dict[str, Any], title: str, source: str) -> str:
    """Returns the page, as Markdown.

    Args:
        status: State of the complete artifact.
        manifest: Its manifest.
        title: Title of the page.
        source: Name of the data set, with its branch if it is not the main one.
    """
    kind = f"pyterrier-artifact.{manifest['type']}"
    header = {
        "tags": ["pyterrier", "pyterrier-artifact", kind, f"{kind}.{manifest['format']}"],
        "task_categories": ["text-retrieval"],
        "viewer": False,
    }
    counts = {
        "documents": f"{status.documents:,}",
        "queries": f"{status.queries:,}",
        "documents whose prompts failed": f"{status.failed:,}" if status.failed else "",
        "language model": _code(status.model) if status.model else "",
        "stages after the generator": " ".join(map(_code, manifest.get("stages") or [])),
        **{f"part {name}": _part(part) for name, part in joined_parts(manifest).items()},
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in counts.items() if value)
    settings = dict(manifest["settings"] or {})
    shown = settings.pop("prompt", None)
    prompt = f"\n## Prompt\n\n{_block(shown)}" if shown is not None else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {title}

Synthetic queries: a language model wrote each for one document, which counts as relevant to it.
They were made with `pyterrier_inpars`, for choosing or training retrieval systems without human
judgements. Each row has the query, the document's identifier and its text.

```python
import pyterrier as pt

queries = pt.Artifact.from_hf({source!r})
queries.get_results()  # qid, query, docno, text, ...
topics, qrels = queries.get_topics(), queries.get_qrels()
```

| | |
|---|---|
{rows}
{prompt}
## License

The rows contain texts of the collection: its license applies to them, and that of the language
model may apply to the queries. Name both here, and put `license:` into the header of this page.

## Settings

{_block(settings)}"""


def _part(part: dict[str, Any]) -> str:
    """Returns how a part of `SyntheticQueries.concat` was made, for the cell of a table."""
    model = (part["settings"] or {}).get("model")
    shown = [counted(part.get("source_documents", part["documents"]), "document")]
    shown += [f"by {_code(model)}"] if model else []
    shown += [f"{len(part['failed']):,} failed"] if "failed" in part else []
    return " ".join([", ".join(shown), *map(_code, part.get("stages") or [])])


def _code(text: str) -> str:
    """Returns text for the cell of a table, as code that needs no escaping."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _block(value: Any) -> str:
    """Returns a code block with a text, or a value as JSON; its fence is not in the text."""
    shown = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}\n{shown}\n{fence}\n"

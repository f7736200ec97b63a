"""Sphinx configuration that builds the pages as PyTerrier's documentation does.

PyTerrier's documentation has directives of its own. This file has small versions of those that the
pages use: ``schematic``, ``related``, ``cite`` and ``how-to``. Errors in them fail a build that
treats warnings as errors.
"""

import ast
import inspect
import os
import re

import pyterrier as pt
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

import pyterrier_inpars

os.environ["HF_HUB_OFFLINE"] = "1"

project = "pyterrier_inpars"
author = "the pyterrier_inpars contributors"
release = pyterrier_inpars.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
autoclass_content = "both"
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"member-order": "bysource"}
always_use_bars_union = True
toc_object_entries_show_parents = "hide"

RED = re.compile('class="[^"]*pts-input-validation-error')
"""A stage in a schematic whose input columns are missing."""

logger = logging.getLogger(__name__)
pt.documentation.url_for_class = lambda _: None  # it is looked up on the web


class Schematic(SphinxDirective):
    """Runs code whose last expression is a pipeline, and draws it."""

    has_content = True
    option_spec = {"input_columns": directives.unchanged, "show_code": directives.flag}

    def run(self):
        """Draws the pipeline; a stage without its input columns is an error."""
        code = "\n".join(self.content)
        try:
            *body, last = ast.parse(code).body
            namespace = {"pt": pt}
            exec(compile(ast.Module(body, []), "<schematic>", "exec"), namespace)
            pipeline = eval(compile(ast.Expression(last.value), "<schematic>", "eval"), namespace)
            columns = self.options.get("input_columns")
            drawn = pt.schematic.draw(
                pipeline,
                input_columns=None if columns is None else [c.strip() for c in columns.split(",")],
            )
        except Exception as error:
            raise self.error(f"schematic failed: {type(error).__name__}: {error}") from error
        if RED.search(drawn):
            raise self.error("schematic has a stage whose input columns are missing")
        # A wide drawing scrolls; PyTerrier centers it, which would cut both ends.
        whole = f'<div style="width: max-content; min-width: 100%">{drawn}</div>'
        drawn = f'<div style="overflow-x: auto">{whole}</div>'
        found = [nodes.raw("", drawn, format="html")]
        if "show_code" in self.options:
            shown = code.split("# FOLD")[-1].strip()
            found.insert(0, nodes.literal_block(shown, shown, language="python"))
        return found


class Related(SphinxDirective):
    """Links the documentation of an object to this section."""

    required_arguments = 1
    option_spec = {"title": directives.unchanged}

    def run(self):
        """Notes the object, which must be documented somewhere."""
        related = self.env.metadata.setdefault("related objects", {})
        related.setdefault(self.arguments[0], self.env.docname)
        return []


class Cite(SphinxDirective):
    """Shows a citation and its BibTeX entry."""

    required_arguments = 1
    has_content = True
    option_spec = {"citation": directives.unchanged_required, "link": directives.uri}

    def run(self):
        """Returns an admonition."""
        box = nodes.admonition(classes=["citation"])
        box += nodes.title("", "Citation")
        reference = nodes.reference("", self.options["citation"], refuri=self.options["link"])
        box += nodes.paragraph("", "", reference)
        bibtex = "\n".join(self.content)
        box += nodes.literal_block(bibtex, bibtex, language="bibtex")
        return [box]


class HowTo(SphinxDirective):
    """A section of instructions, which PyTerrier's documentation lists on a page of its own."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        """Returns the section."""
        title = self.arguments[0]
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        inline, messages = self.state.inline_text(title, self.lineno)
        section += nodes.title(title, "", *inline)
        self.state.nested_parse(self.content, self.content_offset, section)
        return [section, *messages]


def check_related(app, env):
    """Warns of a ``related`` directive whose object is on no page."""
    known = env.get_domain("py").objects
    for name, docname in env.metadata.get("related objects", {}).items():
        if name not in known:
            logger.warning("related: %s is not documented", name, location=docname)


def signature_of_init(app, what, name, obj, options, signature, annotation):
    """Shows the parameters of ``__init__`` where a base class has ``__new__(*args, **kwargs)``."""
    if what == "class" and signature == "(*args, **kwargs)":
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        signature = stringify_signature(inspect.Signature(parameters), show_annotation=False)
    return signature, annotation


def setup(app):
    """Registers the directives."""
    app.add_directive("schematic", Schematic)
    app.add_directive("related", Related)
    app.add_directive("cite", Cite)
    app.add_directive("how-to", HowTo)
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("env-check-consistency", check_related)
    return {"parallel_read_safe": False}

"""How Sphinx builds the documentation site; `scripts/docs.sh` runs it."""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "twohead"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]

html_theme = "furo"
html_title = f"twohead {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
toc_object_entries_show_parents = "hide"
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # its own style cuts the parameters off from what is raised
default_role = "named"

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "special-members": "__call__",
    "exclude-members": "setup",  # what a Linen module calls by itself
}
autodoc_typehints = "signature"  # of properties; `as_written` sees to the rest
python_maximum_signature_line_length = 80


def as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Returns a signature in the source's words.

    The objects that annotations and defaults become have long names: jaxtyping's spell out the array's private class.
    """
    if what in ("class", "exception"):
        return (signature if (arguments := _constructor(obj)) is None else f"({arguments})"), None
    if what not in ("function", "method"):
        return signature, returns
    node = _parsed(inspect.unwrap(obj))
    return f"({_arguments(node, bound=what == 'method')})", node.returns and _annotation(node.returns)


def _constructor(cls: type) -> str | None:
    """Returns a class's arguments, or None where they are not ours to say."""
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in ("flax_impl", "torch_ref")]
    if not dataclasses.is_dataclass(cls):
        owner = next((base for base in ours if "__init__" in vars(base)), None)
        return owner and _arguments(_parsed(inspect.unwrap(vars(owner)["__init__"])), bound=True)
    fields = {
        line.target.id: line
        for base in reversed(ours)
        for line in _parsed(base).body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    parts: list[str] = []
    for field in dataclasses.fields(cls):
        if field.name not in fields or not field.init:  # Linen adds `parent` and `name`
            continue
        if field.kw_only and "*" not in parts:
            parts.append("*")
        line = fields[field.name]
        default = f" = {ast.unparse(line.value)}" if line.value else ""
        parts.append(f"{field.name}: {_annotation(line.annotation)}{default}")
    return ", ".join(parts)


def _parsed(obj: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(obj))).body[0]


def _arguments(node: ast.FunctionDef, bound: bool) -> str:
    if bound and not any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list):
        del node.args.args[0]
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg) and argument.annotation:
            argument.annotation = _Unquoted().visit(argument.annotation)
    return ast.unparse(node.args)


def _annotation(node: ast.expr) -> str:
    return ast.unparse(_Unquoted().visit(node))


class _Unquoted(ast.NodeTransformer):
    """Takes the quotes from names of classes in an annotation; a shape and a choice keep theirs."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        kept = isinstance(node.value, ast.Name) and node.value.id in ("Bool", "Float", "Int", "Literal", "Shaped")
        return node if kept else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Name(node.value) if isinstance(node.value, str) else node


def as_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Prepares a docstring for napoleon, and sets off where an entry comes from.

    Napoleon takes what stands before a colon for a type: in `Returns`, and in the first line of a property.
    """
    if what == "data":  # a dictionary has the docstring of `dict`
        lines[:] = ["By name: " + ", ".join(f"`{key}`" for key in obj) + "."]
    if what in ("data", "property"):
        lines[:0] = ["..", ""]  # an empty comment, which has no colon
    lines[:] = [re.sub(r"^(Twin|Source):", r"**\1:**", ":returns:" if line == "Returns:" else line) for line in lines]


class Named(SphinxRole):
    """What stands between single backticks: code, and a link where it is the name of something on the site."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Returns the code or the link."""
        if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", self.text):
            return PyXRefRole()("py:obj", self.rawtext, self.text, self.lineno, self.inliner)
        return [nodes.literal(self.rawtext, self.text)], []


def setup(app: Sphinx) -> None:
    """Registers what is above."""
    app.add_role("named", Named())
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-process-docstring", as_fields, priority=400)  # before napoleon

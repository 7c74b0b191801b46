"""Settings of the Sphinx documentation: `make docs` builds it into docs/_build/html."""

import re
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "bencher_job"
version = release = version_of("bencher-job")
html_title = f"{project} {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

nitpicky = True  # each of our names that a signature mentions leads to its place on the API page
nitpick_ignore_regex = [
    ("py:.*", r"(collections|concurrent|datetime|os|pathlib|typing|pandas|matplotlib|xarray|P)\..+"),
    ("py:.*", r"bencher_job\._.*"),  # what is not public has no place there
    (
        "py:class",
        r"Axes|CallInfo|Kind|SweepOrder",
    ),  # imported for type checkers only
]

default_role = "code"  # docstrings put names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
python_maximum_signature_line_length = 88


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", tell_arguments_of_the_function)


def tell_arguments_of_the_function(
    _app: Sphinx,
    _what: str,
    _name: str,
    _object: object,
    _options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Leave out the types of `*args: P.args, **kwargs: P.kwargs`, and write defaults as in the code.

    These are the types of the decorated function. Sphinx's own way to keep the text of defaults reads the source, where
    the options of a function with `**options` don't stand.
    """
    if signature:
        signature = re.sub(r": (?:~?typing\.)?~?P(\.(kw)?args)?(?=[,)])", "", signature)
        signature = re.sub(r"= Ellipsis\b", "= ...", signature)
        signature = re.sub(r"= <class '(\w+)'>", r"= \1", signature)
        signature = re.sub(r"= (\d+)0{9}\b", r"= int(\1e9)", signature)
    return signature, returns

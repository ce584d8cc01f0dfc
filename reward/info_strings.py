"""What a fence's info string says of the block: Python, Markdown or something else."""

import re

_LANGUAGE = (
    r"(?:(?:i|c)?python|py(?:py)?)(?:[ _-]?v?\d[\d.]*+|i)?(?:[_-](?:code|exec|script|solution|program|file))?(?![\w+#-])"
    r"|tool[_-]code(?![\w+#-])"
)
_PYTHON = re.compile(
    rf"""[{{.\s]*+(?:(?:lang(?:uage)?|class|code|syntax|type)[ ]?[-=:][ ]?)?["'.]?(?:{_LANGUAGE})"""
    rf"|\{{[^}}\n]{{0,200}}?[ .](?:{_LANGUAGE})"
    r"|[\w/.-]{1,80}\.pyi?\b",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"(?:markdown|md)\b", re.IGNORECASE)
_WORD = re.compile(r"\S{1,80}\Z")


def is_python(info: str) -> bool:
    """Whether it names Python: with a version, blanks, attributes, braces, or as `lang=` or a class; or a name in `.py`."""
    return _PYTHON.match(info) is not None


def is_markdown(info: str) -> bool:
    """Whether the block is Markdown itself."""
    return _MARKDOWN.match(info) is not None


def is_python_word(text: str) -> bool:
    """Whether it is one word that names Python, as prose is not."""
    return _WORD.match(text) is not None and is_python(text)

"""A result as a page that a person reads: one self-contained HTML file (extra ``report``: jinja2 and matplotlib)."""

from .page import report

__all__ = ["report"]

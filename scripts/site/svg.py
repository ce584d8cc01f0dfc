"""Boxes, arrows and lines of text as SVG, with numbers that are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, SOFT, PAPER = "#1f2933", "#52606d", "#ffffff"
ENVIRONMENT, METHOD, GLUE, GONE = "#e3f2ec", "#fdebd3", "#e8ecf4", "#f8dede"
THIN = f'stroke="{SOFT}" stroke-width="0.8"'
_FONT = "font-family=\"-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""


def text(
    x: float,
    y: float,
    line: str,
    *,
    size: float = 12,
    bold: bool = False,
    anchor: str = "middle",
    fill: str = INK,
) -> str:
    """One line, with its baseline at y."""
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}"{weight}>{escape(line)}</text>'


def box(x: float, y: float, width: float, height: float, title: str, lines: Sequence[str], fill: str) -> str:
    """A room with its title and up to four lines below it."""
    middle = x + width / 2
    rows = [text(middle, y + 40 + 16 * i, line, size=11.5, fill=SOFT) for i, line in enumerate(lines)]
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    frame = f'<rect {place} rx="7" fill="{fill}" {THIN}/>'
    return "\n".join([frame, text(middle, y + 21, title, size=13.5, bold=True), *rows])


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through the points, with its head at the last."""
    path = " ".join(f"{'ML'[i > 0]}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.4"{dashes} marker-end="url(#head)"/>'


def drawing(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """The whole file; `title` is what a screen reader says."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
    )
    label = f'aria-label="{escape(title)}"'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {label} {_FONT}>',
            f"<title>{escape(title)}</title>",
            head,
            f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )

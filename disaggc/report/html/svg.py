"""Inline SVG, element by element: text and attributes are escaped here, once for every drawing."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

Attribute = str | float | None


def element(name: str, *children: str, **attributes: Attribute) -> Markup:
    """One element; ``class_`` stands for class, ``stroke_width`` for stroke-width.

    Args:
        name: Of the element.
        children: Inner markup; plain text is escaped.
        attributes: Those that are None are left out; numbers get two decimals.
    """
    told = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, told, inner)


def _value(value: Attribute) -> str:
    if isinstance(value, str):
        return value
    assert value is not None
    return f"{value:.2f}".rstrip("0").rstrip(".")


def picture(
    width: float,
    height: float,
    label: str,
    children: Iterable[str],
    class_: str = "",
    stretches: bool = False,
) -> Markup:
    """A drawing that scales with its box, named for those who do not see it.

    ``stretches``: to whatever proportions its box has.
    """
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        preserveAspectRatio="none" if stretches else None,
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


def rect(
    x: float, y: float, width: float, height: float, class_: str, tip: str = "", radius: float = 0.0
) -> Markup:
    """A box; ``tip`` is shown where a pointer rests on it."""
    return element(
        "rect",
        *_tip(tip),
        x=x,
        y=y,
        width=max(0.0, width),
        height=max(0.0, height),
        rx=radius or None,
        class_=class_,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str, tip: str = "") -> Markup:
    """A straight line."""
    return element("line", *_tip(tip), x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> Markup:
    """A line of text on its baseline; anchor is 'start', 'middle' or 'end'."""
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def polyline(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """An open line through points."""
    told = " ".join(f"{_value(x)},{_value(y)}" for x, y in points)
    return element("polyline", points=told, class_=class_)


def dot(x: float, y: float, radius: float, class_: str, tip: str = "") -> Markup:
    """A disc."""
    return element("circle", *_tip(tip), cx=x, cy=y, r=radius, class_=class_)


def diamond(x: float, y: float, radius: float, class_: str, tip: str = "") -> Markup:
    """A square on its corner."""
    corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
    told = " ".join(f"{_value(a)},{_value(b)}" for a, b in corners)
    return element("polygon", *_tip(tip), points=told, class_=class_)


def _tip(words: str) -> tuple[Markup, ...]:
    return (element("title", words),) if words else ()


def text_width(words: str, size: float = 12.0) -> float:
    """About how wide a text is in a sans-serif face, in pixels: never less than it really is."""
    wide = sum(1.0 if c in "mwMW@%" or c.isupper() else 0.4 if c in "iljtf.,:;|' " else 0.62 for c in words)
    return wide * size

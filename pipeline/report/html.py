"""HTML as nested calls; text is escaped unless it is already Markup."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence

_VOID = {"img", "meta", "br"}


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """`tag("td", text, class_="num")` -> `<td class="num">text</td>`.

    Children may be nested iterables; None is left out. A trailing `_` of an attribute's name is
    dropped, an inner one becomes `-`; the values None and False leave the attribute out.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: object) -> Markup:
    """Children one after the other."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str) or not isinstance(children, Iterable):
        return Markup(html.escape(str(children)))
    return Markup("".join(join(child) for child in children))


def section(name: str, title: str, *children: object) -> Markup:
    """A part of the page that `#name` leads to."""
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def absent(text: str) -> Markup:
    """A sentence that names what is not there."""
    return tag("p", text, class_="absent")


def table(
    caption: str,
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    words: Collection[int] = (0,),
) -> Markup:
    """A table that scrolls inside its own box; the columns `words` hold words, the others numbers.

    The first cell of each row is the row's header.
    """
    classes = ["word" if i in words else "num" for i in range(len(head))]
    header = [tag("th", cell, scope="col", class_=c) for cell, c in zip(head, classes, strict=True)]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_="word"),
            [tag("td", cell, class_=c) for cell, c in zip(row[1:], classes[1:], strict=True)],
        )
        for row in rows
    ]
    inner = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", header)),
        tag("tbody", body),
    )
    return scroll(caption, inner)


def scroll(label: str, *children: object) -> Markup:
    """A box that scrolls sideways instead of the page; reachable by keyboard."""
    return tag("div", *children, class_="scroll", role="region", aria_label=label, tabindex="0")


def terms(meanings: Mapping[str, object]) -> Markup:
    """Words and what they mean."""
    return tag("dl", [(tag("dt", k), tag("dd", v)) for k, v in meanings.items()], class_="terms")


def details(summary: object, *children: object) -> Markup:
    """Something to open."""
    return tag("details", tag("summary", summary), *children)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f' {name}="{html.escape(str(value))}"'

"""What people wrote and models said, as HTML that can do nothing: rendered and sanitised once, on the server."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Number, String, _TokenType
from pygments.util import ClassNotFound

# Longer code is shown plain: colouring it would cost more than it tells.
LONGEST_HIGHLIGHTED = 20_000
TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
# Blocks that may each be written in another direction: Arabic beside English, a Chinese quotation in either.
BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "blockquote", "th", "td")
CLASSES = ((Comment, "hl-c"), (Keyword, "hl-k"), (String, "hl-s"), (Number, "hl-m"))


@lru_cache(maxsize=2048)
def render_markdown(text: str) -> SafeString:
    """Return a text's Markdown as safe HTML: no raw HTML, images, scripts or styles; links open beside the page."""
    cleaned = nh3.clean(
        _MARKDOWN.render(text),
        tags=TAGS,
        attributes={"a": {"href"}, "span": {"class"}, "ol": {"start", "dir"}}
        | {tag: {"dir"} for tag in BLOCKS if tag != "ol"},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        # What may scroll sideways can be scrolled by keys too.
        set_tag_attribute_values={
            "a": {"target": "_blank"},
            "pre": {"tabindex": "0", "dir": "ltr"},
            "table": {"tabindex": "0"},
        },
    )
    return mark_safe(cleaned)  # nh3 has left nothing but the tags above


def _highlight(code: str, language: str, attributes: str) -> str:
    """Return code with comments, keywords, texts and numbers marked; unknown languages stay plain."""
    if not language or len(code) > LONGEST_HIGHLIGHTED:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return "".join(_mark(token, piece) for token, piece in lexer.get_tokens(code))


def _mark(token: _TokenType, piece: str) -> str:
    name = next((name for kind, name in CLASSES if token[: len(kind)] == kind), "")
    return f'<span class="{name}">{escape(piece)}</span>' if name else escape(piece)


def _lower_headings(state: StateCore) -> None:
    """Put a text's headings below the page's own two, so that the page's outline stays true."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"


def _direct_blocks(state: StateCore) -> None:
    """Let each block take its direction from its own first letters."""
    for token in state.tokens:
        if token.nesting == 1 and token.tag in BLOCKS:
            token.attrSet("dir", "auto")


def _link_picture(self: RendererHTML, tokens: Sequence[Token], index: int, *_rest: Any) -> str:
    """Show a picture as a link: the picture itself would tell another server who reads it."""
    token = tokens[index]
    address = str(token.attrGet("src") or "")
    return f'<a href="{escape(address)}">{escape(token.content or address)}</a>'


_MARKDOWN = MarkdownIt("commonmark", {"html": False, "highlight": _highlight, "breaks": True}).enable(
    ["table", "strikethrough"]
)
_MARKDOWN.core.ruler.push("lower_headings", _lower_headings)
_MARKDOWN.core.ruler.push("direct_blocks", _direct_blocks)
_MARKDOWN.add_render_rule("image", _link_picture)

"""Hostile text does nothing, and honest text reads as it was meant."""

import pytest

from feedback_app.projects.markdown import render_markdown


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("![seen](https://spy.example/pixel.png)", "<img"),
        ("[click](javascript:alert(1))", "href"),
        ("[click](data:text/html,x)", "href"),
        ("<iframe src='https://e.example'></iframe>", "<iframe"),
        ("<p style='position:fixed'>x</p>", "<p style"),
        ("```html\n</code><script>alert(1)</script>\n```", "<script"),
    ],
)
def test_nothing_that_acts_or_calls_home_is_left(text: str, absent: str) -> None:
    assert absent not in render_markdown(text)


def test_links_open_beside_the_page_and_tell_nothing() -> None:
    html = render_markdown("[there](https://e.example/)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html


def test_headings_stand_below_the_pages_own() -> None:
    assert "<h3 " in render_markdown("# Top")
    assert "<h6 " in render_markdown("###### Deep")


def test_code_is_marked_in_a_known_language_and_plain_in_any_other() -> None:
    assert '<span class="hl-k">def</span>' in render_markdown("```python\ndef f(): pass\n```")
    assert "<span" not in render_markdown("```no-such-language\ndef f(): pass\n```")


def test_a_line_break_that_was_typed_is_kept() -> None:
    assert "<br>" in render_markdown("one\ntwo")


def test_a_picture_is_a_link_that_shows_nothing_by_itself() -> None:
    html = render_markdown("![a cat](https://e.example/cat.png)")
    assert ">a cat</a>" in html
    assert 'href="https://e.example/cat.png"' in html
    assert "href" not in render_markdown("![x](javascript:alert(1))")


def test_each_block_has_its_own_direction_and_code_runs_left_to_right() -> None:
    html = render_markdown("مرحبا\n\nHello\n\n```\nx = 1\n```")
    assert html.count('<p dir="auto">') == 2
    assert 'dir="ltr"' in html

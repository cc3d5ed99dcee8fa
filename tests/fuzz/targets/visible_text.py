"""Visible text has no hidden character and can be reversed; a quoted part has no quotation mark and no connective."""

from mcp_guard.core.visible_text import is_connective, is_hidden, original, quote, visible

SEEDS = (
    b"INC-4451, approved by Alice", "1\u202e987\u200b\u3164\U000e0041".encode(), b"\\u{202e} \\u{5c}",
    '5\u201d, "approved" by \u00a0 e\u0301\u0316\u0316\u0316\u0316\u0316'.encode(), b" on  behalf\nof ",
)  # fmt: skip


def check(data: bytes) -> None:
    try:
        text = data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    shown, part = visible(text), quote(text)
    assert original(shown) == text
    assert not any(map(is_hidden, shown))
    assert original(part[1:-1] if part.startswith('"') else part) == text
    assert '"' not in part[1:-1]
    assert not is_connective(part)

"""Words that mix scripts: which of their letters are odd, and where people see them."""

import pytest

from mcp_guard.core.mixed_scripts import mark_odd_letters, marked_words
from mcp_guard.core.visible_text import reviewed_code


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("dana@ex\u0430mple.com", r"dana@ex\u{430}mple.com"),
        ("\u041f\u0440\u0438\u0432e\u0442 world", "\u041f\u0440\u0438\u0432\\u{65}\u0442 world"),
        (
            "caf\u00e9 \u043c\u0438\u0440 \u6771\u4eac\u30bf\u30ef\u30fc",
            "caf\u00e9 \u043c\u0438\u0440 \u6771\u4eac\u30bf\u30ef\u30fc",
        ),
        ("\u0410B", r"\u{410}B"),
    ],
)
def test_letters_of_another_script_than_their_word_are_marked(text: str, marked: str) -> None:
    assert mark_odd_letters(text) == marked
    assert (marked_words(text) == ()) == (text == marked)


def test_code_under_review_marks_them() -> None:
    assert reviewed_code('context.stage == "\u0421losed Won"') == r'context.stage == "\u{421}losed Won"'

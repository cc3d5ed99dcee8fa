"""Letters that can be taken for others: which are odd, and where people see them."""

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
        ("\u0430\u0441\u0435", r"\u{430}\u{441}\u{435}"),
        ("pay \u0430\u0441\u0435 5", r"pay \u{430}\u{441}\u{435} 5"),
        ("dana@\u0430\u0441\u0435.com", r"dana@\u{430}\u{441}\u{435}.com"),
        (
            "\u043d\u0430 dana@\u0430\u0441\u0435.com \u0438 \u0430\u0441\u0435",
            "\u043d\u0430 dana@\\u{430}\\u{441}\\u{435}.com \u0438 \u0430\u0441\u0435",
        ),
        ('"\u0430\u0441\u0435" // \u043d\u0435\u0442', '"\\u{430}\\u{441}\\u{435}" // \u043d\u0435\u0442'),
        ("\u0391\u0392 7", r"\u{391}\u{392} 7"),
        ("\u03c4\u03bf \u03c0\u03bf\u03c3\u03cc", "\u03c4\u03bf \u03c0\u03bf\u03c3\u03cc"),
        ("p\u0251ypal", r"p\u{251}ypal"),
    ],
)
def test_letters_that_can_be_taken_for_others_are_marked(text: str, marked: str) -> None:
    assert mark_odd_letters(text) == marked
    assert (marked_words(text) == ()) == (text == marked)


def test_code_under_review_marks_them() -> None:
    assert reviewed_code('context.stage == "\u0421losed Won"') == r'context.stage == "\u{421}losed Won"'

"""Who is who: a request's people are found by identity, and excluded by any similar name."""

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.people import Identity, People, find_requesters, fold

ISSUER = "https://login.example"
NAMES = {"dana": "Dana S.", "alice": "Alice"}
PEOPLE = People({Identity(ISSUER, "17"): "dana"}, NAMES, frozenset({Identity("", "erin")}))
WIDE = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(ord("!"), ord("~") + 1)})
spellings = st.sampled_from(
    [str.upper, str.title, str.swapcase, lambda name: name.translate(WIDE), lambda name: f" {name}\u200b",
     "\u0301".join, lambda name: f"{name}@corp.example", lambda name: f"CORP\\{name}",
     lambda name: f"auth0|{name}"]
)  # fmt: skip


@given(st.lists(spellings, max_size=3), st.sampled_from(["dana", "alice"]), st.sampled_from(["", ISSUER, "other"]))
def test_no_composition_of_spellings_hides_an_approver(changes: list, id: str, issuer: str) -> None:  # type: ignore[type-arg]
    name = id
    for change in changes:
        name = change(name) if "@" not in name or "@" not in change("x") else name
    found = find_requesters(PEOPLE, ["dana", "alice"], "bob", Identity(issuer, name))
    assert id in found.approvers
    assert found.is_user_unknown == (not (issuer == "" and name in ("dana", "alice")))


@given(st.text(max_size=8), st.sampled_from(["", ISSUER]))
def test_a_user_is_known_only_by_identity(name: str, issuer: str) -> None:
    found = find_requesters(PEOPLE, ["dana", "alice"], "bob", Identity(issuer, name))
    known = {("", "dana"), ("", "alice"), ("", "bob"), ("", "erin"), (ISSUER, "17")}
    assert found.is_user_unknown == ((issuer, name) not in known)


@given(st.text(max_size=8))
def test_folding_is_stable(name: str) -> None:
    assert fold(fold(name)) == fold(name)

"""The key `guard.time_zone`: the IANA name of the zone of `context.time.local`."""

from typing import Annotated

from pydantic import AfterValidator

from mcp_guard.policy.time_of_call import find_zone


def check_zone(name: str) -> str:
    try:
        find_zone(name)
    except ValueError:
        raise ValueError(f"`{name}` is not a time zone that this machine knows; {_suggest(name)}") from None
    return name


def _suggest(name: str) -> str:
    import difflib
    from zoneinfo import available_timezones

    known = available_timezones()
    if not known:
        return "it has no time zone data: install the tzdata package"
    cities = {zone.rpartition("/")[2].casefold(): zone for zone in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.strip().replace(" ", "_").casefold().rpartition("/")[2], cities, 1)
    return f"did you mean `{cities[near[0]]}`?" if near else 'write an IANA name such as "Europe/Berlin"'


ZoneName = Annotated[str, AfterValidator(check_zone)]

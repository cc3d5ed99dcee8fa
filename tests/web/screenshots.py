"""Screenshots of the inbox for the documents: `make screenshots` writes them to docs/images."""

import tempfile
from pathlib import Path
from typing import Any

from tests.web.inbox_process import InboxScenario, add_passkeys, browser, enrol, inbox_scenario, sign_in

TARGET = Path(__file__).parent.parent.parent / "docs" / "images"
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1100, "height": 820}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1100, "height": 820}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "light"},
}


def fill(on: InboxScenario) -> None:
    """Some typical requests for the inbox."""
    on.hold()
    on.hold(deal_id="790", amount=12500.0, stage="Closed Lost", guard_reason="They chose another supplier.")
    arguments = {"deal_id": "655", "amount": 1200.0, "reason": "double charge", "guard_reason": "Billing asked for it."}
    on.client.send("tools/call", {"name": "crm__refund", "arguments": arguments})
    while len(on.requests()) < 3:
        pass


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, inbox_scenario(Path(folder)) as on, browser() as launched:
        fill(on)
        for name, look in LOOKS.items():
            context = launched.new_context(**look)
            page = context.new_page()
            add_passkeys(context, page)
            sign_in(page, on)
            if page.get_by_role("button", name="Enrol a passkey").is_visible():
                enrol(page)
            page.locator("a.card").first.wait_for()
            page.screenshot(path=TARGET / f"inbox-{name}.png")
            page.locator("a.card").first.click()
            page.locator("article").wait_for()
            page.get_by_label("Rationale").fill("Signed contract seen.")
            page.screenshot(path=TARGET / f"request-{name}.png")
            context.close()


if __name__ == "__main__":
    main()

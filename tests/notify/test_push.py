"""Web push: what a push service gets, whom it is for, and which addresses the guard sends to."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.push import (
    KIND,
    SERVICES,
    Subscription,
    check_endpoint,
    encrypt,
    read_subscription,
    seal,
    unseal,
    vapid_public,
)
from mcp_guard.settings import NetworkSettings
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.items import Item
from tests.notify.due import deliver_due
from tests.notify.push_service import PushService, decode, push_service
from tests.notify.test_slack_app import ROUTE, Setup, open_setup

SECRET = SharedSecret("s" * 32, "o")


@dataclass
class PushSetup(Setup):
    service: PushService

    def push(self) -> NotificationDispatcher:
        dispatcher = self.dispatcher("push", services=(self.service.url.removeprefix("https://"),))
        network = NetworkSettings(ca_file=self.service.certificate, reads_environment=False)
        notifier = replace(dispatcher.notifiers["one"], network=network)
        return replace(dispatcher, notifiers={"one": notifier}, inbox="https://guard.example")

    async def subscribe(self, person: str, name: str) -> None:
        services = (self.service.url.removeprefix("https://"),)
        subscription = read_subscription(self.service.subscribe(name).to_json(), services)
        now = self.harness.clock.time
        item = Item(KIND, subscription.key, person, seal(subscription, person, SECRET), now + 10**15)
        await self.items.put(item, now)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[PushSetup]:
    with push_service(tmp_path / "service") as service:
        async for opened in open_setup(tmp_path, replace(ROUTE, follow=())):
            yield PushSetup(opened.harness, opened.items, service)


async def test_those_who_may_decide_are_told_on_all_their_devices(setup: PushSetup) -> None:
    for person, device in (("alice", "phone"), ("alice", "laptop"), ("bob", "owner"), ("mallory", "stranger")):
        await setup.subscribe(person, device)
    id = await setup.ask()
    await deliver_due(setup.push())
    assert [delivery.state for delivery in setup.deliveries()] == ["delivered"]
    assert sorted(name for name, _, _ in setup.service.got) == ["laptop", "phone"]  # bob owns the agent
    _, message, headers = setup.service.got[0]
    assert message == {
        "title": "agent needs approval: crm__update_deal on Deal 789",
        "body": "Open it to review and decide.",
        "path": f"/requests/{id}",
        "tag": id,
    }
    assert 3500 < int(headers["ttl"]) <= 3600
    assert headers["urgency"] == "high"


async def test_subscriptions_that_ended_are_forgotten_and_failures_tried_again(setup: PushSetup) -> None:
    await setup.subscribe("alice", "gone")
    await setup.subscribe("alice", "phone")
    del setup.service.browsers["gone"]
    setup.service.answers["phone"] = 503
    await setup.ask()
    dispatcher = setup.push()
    await deliver_due(dispatcher)
    assert [(delivery.state, delivery.note) for delivery in setup.deliveries()] == [
        ("due", "the receiver answered HTTP 503")
    ]
    assert len(await setup.items.find_all(KIND, "alice", setup.harness.clock.time)) == 1
    setup.service.answers.clear()
    setup.pass_time()
    await deliver_due(dispatcher)
    assert [name for name, _, _ in setup.service.got] == ["phone"]


async def test_device_that_its_service_refuses_neither_repeats_the_message_for_others_nor_stays(
    setup: PushSetup,
) -> None:
    for device in ("other", "phone"):
        await setup.subscribe("alice", device)
    setup.service.answers["other"] = 403
    await setup.ask()
    await deliver_due(setup.push())
    assert [(delivery.state, delivery.note) for delivery in setup.deliveries()] == [("delivered", "")]
    assert [name for name, _, _ in setup.service.got] == ["phone"]
    assert len(await setup.items.find_all(KIND, "alice", setup.harness.clock.time)) == 1


async def test_refusal_of_every_device_is_shown_and_forgets_none(setup: PushSetup) -> None:
    await setup.subscribe("alice", "phone")
    setup.service.answers["phone"] = 403  # perhaps our clock is wrong
    await setup.ask()
    await deliver_due(setup.push())
    assert [(delivery.state, delivery.note) for delivery in setup.deliveries()] == [
        ("due", "the receiver answered HTTP 403")
    ]
    assert len(await setup.items.find_all(KIND, "alice", setup.harness.clock.time)) == 1


@pytest.mark.parametrize("is_decided", [False, True])
async def test_another_attempt_is_for_the_devices_that_have_not_got_it(setup: PushSetup, is_decided: bool) -> None:
    for device in ("away", "phone"):
        await setup.subscribe("alice", device)
    setup.service.answers["away"] = 503
    id = await setup.ask()
    dispatcher = setup.push()
    for attempt in range(3):
        if is_decided and attempt == 1:
            setup.harness.approve(id)
        await deliver_due(dispatcher)
        setup.pass_time()
    assert [name for name, _, _ in setup.service.got] == ["phone"]
    assert [(delivery.state, delivery.note) for delivery in setup.deliveries()] == [
        ("delivered", "the receiver answered HTTP 503")  # some have it, so they hear of the end
    ]


async def test_nobody_subscribed_is_said(setup: PushSetup) -> None:
    await setup.ask()
    await deliver_due(setup.push())
    assert "nobody who may decide has switched notifications on" in setup.deliveries()[0].note


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://fcm.googleapis.com/fcm/send/1",
        "HTTPS://fcm.googleapis.com/fcm/send/1",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1%00.push.apple.com/",
        "https://evil.example%2f.push.apple.com/",
        "https://evil.example,.push.apple.com/",
        "https://fcm.goog\tleapis.com/x",
        "https://fcm.googleapis.com#@evil.example/",
        "https://fcm.googleapis.com.evil.example/",
        "https://evil.example/?fcm.googleapis.com",
        "https://user@evil.example/",
        "https://fcm.googleapis.com@evil.example/",
        "https://fcm.googleapis.com:8443/",
        "https://evil.example\\.push.apple.com/",
        "https://xpush.apple.com/",
        "https://push.apple.com/",
        "https://fcm.googleapis.com/" + "a" * 3000,
        "ftp://fcm.googleapis.com/",
        "",
        None,
    ],
)
def test_address_that_is_no_known_push_service_is_refused(endpoint: object) -> None:
    with pytest.raises(ValueError, match=r"push service|push subscription"):
        check_endpoint(endpoint, SERVICES)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/fcm/send/abc:def",
        "https://updates.push.services.mozilla.com/wpush/v2/gAAA",
        "https://web.push.apple.com/QA",
        "https://wns2-par02p.notify.windows.com/w/?token=BQ",
    ],
)
def test_addresses_of_the_common_browsers_are_taken(endpoint: str) -> None:
    check_endpoint(endpoint, SERVICES)


def test_encryption_is_that_of_the_example_in_rfc_8291() -> None:
    """RFC 8291, §5 and appendix A."""
    subscription = Subscription(
        "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
        decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        decode("BTBZMqHH6r4Tts7J_aSIgg"),
    )
    private = ec.derive_private_key(
        int.from_bytes(decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")), ec.SECP256R1()
    )
    plain, salt = b"When I grow up, I want to be a watermelon", decode("DGv6ra1nlYgDCS1FRnbzlw")
    body = encrypt(plain, subscription, private, salt)
    assert body == decode(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl"
        "7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


def test_subscription_is_sealed_for_its_owner_and_the_secret_of_the_gateways(tmp_path: Path) -> None:
    with push_service(tmp_path / "service") as service:
        document = service.subscribe("phone").to_json()
        services = (service.url.removeprefix("https://"),)
    subscription = read_subscription(json.loads(json.dumps(document)), services)
    sealed = seal(subscription, "alice", SECRET)
    assert b"/push/phone" not in sealed
    assert unseal(sealed, "alice", SharedSecret("s" * 32, "o"), services) == subscription
    assert unseal(sealed, "bob", SECRET, services) is None
    assert unseal(sealed, "alice", SharedSecret("t" * 32, "o"), services) is None
    assert unseal(sealed, "alice", SECRET, SERVICES) is None
    assert vapid_public(SECRET) == vapid_public(SharedSecret("s" * 32, "o"))
    assert vapid_public(SECRET) != vapid_public(SharedSecret("t" * 32, "o"))

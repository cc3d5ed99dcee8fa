"""Receipts of who may call, for tests that want one of every kind."""

from mcp_guard.core.model import Agent
from mcp_guard.identity.instances import Charter, Issuer, Launch, start_instance
from mcp_guard.ledger import registry
from mcp_guard.ledger.writer import Step
from mcp_guard.settings import Enrolled
from tests.promises.house import House


def who_may_call(house: House) -> None:
    """An agent enrolled and enabled again; instances issued, delegated and revoked."""
    writer = house.ledger.book.writer
    agent = Agent("second", "bob", ("workers",))
    issuer = Issuer(writer.key.origin, writer.key.sign, writer.key.public)
    launch = Launch(on_behalf_of="dana")
    parent, bound = start_instance(issuer, Charter(agent, launch, 60, ("crm__*",), None, "jkt"), writer.now())
    child, _ = start_instance(issuer, Charter(agent, launch, 30, (), parent), writer.now())

    def op(step: Step) -> None:
        registry.enrol_agent(step, Enrolled(agent, "dana"), "operator")
        registry.issue(step, parent, bound)
        registry.issue(step, child, {"by": "socket", "uid": 1001, "pid": 4711})
        registry.revoke(step, ("instance", parent.id), "enough", "operator")
        registry.revoke(step, ("agent", "second"), "drifts", "operator", registry.FOREVER)
        registry.enable_agent(step, "second", "mended", "operator")

    writer.run(op)

"""The section `[risk]`: the operator's own signals, and the detection of unusual behaviour of an agent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from mcp_guard.config.types import ConfigModel
from mcp_guard.core.model import Effect
from mcp_guard.settings import SignalSettings

if TYPE_CHECKING:
    from mcp_guard.core.anomaly import DriftRule


class SignalConfig(ConfigModel):
    """A risk signal of the operator's: a command or a Python function."""

    command: tuple[str, ...] = ()
    python: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    weight: Annotated[int, Field(ge=0, le=100)]
    unknown_weight: Annotated[int, Field(ge=0, le=100)]
    answer_seconds: Annotated[float, Field(gt=0, le=30)] = 1
    tools: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = (Effect.WRITE, Effect.DESTRUCTIVE)

    @model_validator(mode="after")
    def has_one_source(self) -> "SignalConfig":
        if bool(self.command) == (self.python is not None):
            raise ValueError('set either command = ["…"] or python = "module:function"')
        return self

    def signal(self, name: str, base_dir: Path) -> SignalSettings:
        return SignalSettings(
            name=name,
            argv=self.command,
            entry=self.python or "",
            weight=self.weight,
            unknown_weight=self.unknown_weight,
            timeout=self.answer_seconds,
            tools=self.tools,
            effects=self.effects,
            base_dir=base_dir,
        )


class DriftConfig(ConfigModel):
    """Detection of what is unusual for an agent, learned from its earlier runs."""

    false_alarm_rate: Annotated[float, Field(ge=0.002, le=0.5)] = 0.02
    weight: Annotated[int, Field(ge=0, le=100)] = 30
    runs: Annotated[int, Field(ge=10, le=10_000)] = 400

    @model_validator(mode="after")
    def can_warm_up(self) -> "DriftConfig":
        if self.runs < 3 * self.rule().warm_up:
            raise ValueError(
                f"a `false_alarm_rate` of {self.false_alarm_rate} requires `runs` of at least {3 * self.rule().warm_up}"
            )
        return self

    def rule(self) -> "DriftRule":
        from mcp_guard.core.anomaly import DriftRule  # loaded only if it is configured

        return DriftRule(self.false_alarm_rate, self.weight, self.runs)


class RiskConfig(ConfigModel):
    signals: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], SignalConfig] = {}
    drift: DriftConfig | None = None

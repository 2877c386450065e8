"""Applies the engine's decisions to sagas: which message is open, since when, and when to look at the saga again."""

from __future__ import annotations

from orchestrator import engine
from orchestrator.store import Saga
from orderflow import clock
from orderflow.contracts import Message, OrderPlaced, name_of
from orderflow.messaging.application import Incoming
from orderflow.settings import Settings


def start(incoming: Incoming, message: OrderPlaced) -> Saga:
    """A new saga, which knows only its OrderPlaced."""
    envelope = incoming.envelope
    return Saga(
        order_id=envelope.subject,
        version=0,
        workflow=envelope.workflow,
        event_bus=envelope.eventbus,
        traceparent=envelope.traceparent,
        snapshot=message.order,
        facts=set(),
        state=engine.State.RUNNING,
        open_type=None,
        open_id=None,
        attention=False,
        reason="",
        sends=0,
    )


def advance(saga: Saga, settings: Settings) -> Message | None:
    """Applies the engine's decision to a saga whose facts have changed. Returns the message to send, or None if the
    open message stays the same."""
    decision = engine.decide(saga.workflow, saga.facts)
    saga.version += 1
    saga.state = decision.state
    saga.sends = 0
    restart_times(saga, settings)
    open_type = name_of(decision.send) if decision.send else None
    # CancelOrder with more facts is a new question to the arbiter.
    if open_type == saga.open_type and open_type != "CancelOrder":
        return None
    saga.open_type = open_type
    saga.open_id = clock.new_id() if decision.send else None
    if not saga.active:
        saga.attention = False
    if decision.send is None:
        return None
    return engine.message_for(decision.send, saga.snapshot, saga.facts, saga.reason)


def restart_times(saga: Saga, settings: Settings) -> None:
    """Records progress: the deadline starts anew."""
    saga.progressed = True
    forward = saga.state is engine.State.RUNNING
    saga.next_in = settings.resend_after[0] if forward else settings.undo_resend_every

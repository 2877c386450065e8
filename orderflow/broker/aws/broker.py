"""The AWS broker, real or emulated: it combines SQS, SNS, EventBridge and Step Functions."""

from __future__ import annotations

from collections.abc import Sequence

from orderflow.broker import Broker, Parcel, SendFailure
from orderflow.broker.aws.clients import Clients
from orderflow.broker.aws.dead_letters import SqsDeadLetters
from orderflow.broker.aws.eventbridge import EventBridgeBus
from orderflow.broker.aws.sns import SnsTopic
from orderflow.broker.aws.sqs import SqsQueue
from orderflow.broker.aws.step_functions import StepFunctions
from orderflow.contracts import EventBus
from orderflow.routing import SERVICES, Channel, heard_by
from orderflow.settings import Settings


class AwsBroker(Broker):
    """See `Broker`. `clients` are made from the settings by default."""

    def __init__(self, settings: Settings, clients: Clients | None = None) -> None:
        self._clients = clients or Clients(settings)
        self._queues = {s: SqsQueue(self._clients, s, visibility=settings.visibility) for s in SERVICES}
        self._buses: dict[EventBus, SnsTopic | EventBridgeBus] = {
            EventBus.SNS: SnsTopic(self._clients),
            EventBus.EVENTBRIDGE: EventBridgeBus(self._clients),
        }
        self.step_functions = StepFunctions(self._clients, settings)

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if channel is Channel.BUS:
            return self._buses[EventBus(target)].send(batch)
        if channel is Channel.QUEUE:
            return self._queues[target].send(batch)
        if channel is Channel.START:
            return self.step_functions.start(batch)
        if channel is Channel.TOKEN:
            return self.step_functions.answer(batch)
        raise LookupError(f"no way to send over {channel.value}")

    def queue(self, service: str) -> SqsQueue:
        return self._queues[service]

    def dead_letters(self, service: str) -> Sequence[SqsDeadLetters]:
        ways = ("", "-subscription", "-rule") if heard_by(service) else ("",)
        return [SqsDeadLetters(self._clients, service, f"{service}{way}-dlq") for way in ways]

    def ready(self) -> bool:
        return self._clients.ready()

    def close(self) -> None:
        self.step_functions.close()
        self._clients.close()

"""Calling a third party exactly once: intents, three phases, what answers mean."""

from orderflow.providers.protocol import EXPIRED, Answer, Refused, Success, Voided

__all__ = ["EXPIRED", "Answer", "Refused", "Success", "Voided"]

"""Calls to a third party with exactly one effect: intents, three phases, and the meaning of answers."""

from orderflow.providers.protocol import EXPIRED, Answer, Refused, Success, Voided

__all__ = ["EXPIRED", "Answer", "Refused", "Success", "Voided"]

"""Guardrails: what an agent is not to be told, and what it is not to say. The rule: a block names its guardrail, never the text."""

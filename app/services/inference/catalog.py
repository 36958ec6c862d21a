"""Which provider has which model. Providers are asked for their models in the background; one that fails keeps its last known list."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import ModelNotFound, NodeError, ProviderUnavailable
from app.services.inference.breaker import Breaker
from app.services.inference.provider import Provider

DEFAULT = "default"
_PROBE_S = 10.0
# A name that nobody knows makes providers be asked again, but not more often than this: guessed names must not become load.
_FRESH_S = 2.0
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attached:
    """One provider and what is known of it. ``models`` is None until it is known which it has."""

    provider: Provider
    breaker: Breaker
    interval_s: float
    models: tuple[str, ...] | None = None
    reason: str | None = None
    probed_at: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return self.provider.spec.name

    @property
    def status(self) -> str:
        """``unknown`` before the first answer, then ``up`` or ``down``."""
        return "unknown" if self.probed_at is None else "down" if self.reason else "up"

    def find(self, model: str) -> str | None:
        """``model`` as the provider spells it. Ollama lists "llama3" as "llama3:latest" and takes both."""
        return next((name for name in (model, model + ":latest") if name in (self.models or ())), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider that can answer, and the model's name there."""

    attached: Attached
    model: str


class Catalog:
    """The attached providers in their order; the first one that is known to have a model answers for it."""

    def __init__(self, attached: Sequence[Attached]) -> None:
        self._attached = {each.name: each for each in attached}
        for each in attached:
            each.models = each.provider.spec.models or None

    def __iter__(self) -> Iterator[Attached]:
        return iter(self._attached.values())

    async def resolve(self, model: str) -> list[Choice]:
        """Who can answer for ``model``, best first. Raises ModelNotFound, or ProviderUnavailable while whoever may have it is silent."""
        if found := self.known(model):
            return found
        await self._ask_all()
        if found := self.known(model):
            return found
        raise self._unknown(model)

    def known(self, model: str) -> list[Choice]:
        """Like ``resolve``, from what is known now; empty where nobody is known to have it."""
        if model in (DEFAULT, ""):
            return next(([Choice(each, each.models[0])] for each in self if each.models), [])
        name, _, rest = model.partition("/")
        qualified = self._attached.get(name)
        named = qualified.find(rest) if qualified else None
        first = [Choice(qualified, named)] if qualified and named else []
        others = ((each, each.find(model)) for each in self)
        return first + [Choice(each, found) for each, found in others if found]

    def rows(self) -> list[tuple[str, Attached]]:
        """Every model under the name that picks it: its own, or "provider/model" where an earlier provider has the same."""
        rows: dict[str, Attached] = {}
        for each in self:
            for model in each.models or ():
                rows.setdefault(model if model not in rows else f"{each.name}/{model}", each)
        return list(rows.items())

    def names(self) -> frozenset[str]:
        """Every name that resolves now."""
        pairs = [(each.name, model) for each in self for model in each.models or ()]
        plain = {name for _, model in pairs for name in (model, model.removesuffix(":latest"))}
        qualified = {f"{provider}/{name}" for provider, model in pairs for name in (model, model.removesuffix(":latest"))}
        return frozenset({*plain, *qualified, *([DEFAULT] if pairs else [])})

    async def watch(self) -> None:
        """Ask every provider now and then in its own interval, for ever."""
        async with asyncio.TaskGroup() as group:
            for each in self:
                group.create_task(self._watch(each))

    async def _watch(self, each: Attached) -> None:
        while True:
            await self._ask(each)
            await asyncio.sleep(each.interval_s)

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask(each) for each in self))

    async def _ask(self, each: Attached) -> None:
        loop = asyncio.get_running_loop()
        async with each.lock:
            if each.probed_at is not None and loop.time() - each.probed_at < min(_FRESH_S, each.interval_s / 2):
                return
            before = each.status
            try:
                async with asyncio.timeout(_PROBE_S):
                    each.models = await each.provider.probe()
                each.reason = None
            except TimeoutError:
                each.reason = f"Provider {each.name!r} did not answer within {_PROBE_S:g} s."
            except NodeError as error:
                each.reason = error.message
            except Exception:
                log.exception("provider %s cannot be asked", each.name)
                each.reason = f"Provider {each.name!r} cannot be asked; the log has the reason."
            each.probed_at = loop.time()
        self._tell(each, before)

    def _tell(self, each: Attached, before: str) -> None:
        if each.reason and before != "down":
            log.warning("provider %s is down: %s", each.name, each.reason)
        elif not each.reason and before != "up":
            log.info("provider %s is up with %d models", each.name, len(each.models or ()))

    def _unknown(self, model: str) -> NodeError:
        provider = model.partition("/")[0]
        silent = [each for each in self if each.reason and (each.models is None or each.name == provider)]
        if silent:
            told = " ".join(each.reason or "" for each in silent)
            return ProviderUnavailable(f"Nobody who answers has the model {model!r}, and not all could be asked. {told}")
        known = ", ".join(name for name, _ in self.rows()) or "none"
        return ModelNotFound(f"There is no model {model!r}; there is: {known}.", param="model")

    def describe(self) -> list[dict[str, Any]]:
        """The rows of GET /v1/providers; no keys, and addresses without credentials are the caller's part."""
        return [
            {
                "name": each.name,
                "type": each.provider.spec.kind,
                "models": list(each.models or ()),
                "status": each.status,
                "circuit": "open" if each.breaker.open else "closed",
                "reason": each.reason,
            }
            for each in self
        ]

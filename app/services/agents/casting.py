"""Read who plays the roles of a pattern from the ``model``, ``prompts`` and ``orchestration`` of an agent file."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import TemplateSyntaxError

from app.config.yaml import nearest
from app.services.agents.cast import DEFAULT_MODEL, Candidates, Cast, ModelChoice, roles_of
from app.services.agents.prompt import Prompt

STAGES = ("analyze", "process", "synthesize")
"""A pipeline's, where its file names none."""
_IN_ORDER, _IN_TURN = "quality_first", "round_robin"
Problem = tuple[tuple[str | int, ...], str, str]
"""A path below ``spec``, what is wrong there, and the remedy."""


class Casting:
    """One file's. ``problems`` and ``warnings`` collect what is wrong with it, and what is not acted on."""

    def __init__(self, spec: Mapping[str, Any], pattern: str) -> None:
        self._model: Mapping[str, Any] = spec.get("model", {})
        self._templates: Mapping[str, str] = spec.get("prompts", {}).get("templates", {})
        self._orchestration: Mapping[str, Any] = spec.get("orchestration", {})
        self._pattern = pattern
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def cast(self) -> Cast:
        stages = self._stages()
        asked_for = roles_of(self._pattern, stages)
        narrate = self._orchestration.get("narrate", False)
        if not isinstance(narrate, bool):
            self.warnings.append("`spec.orchestration.narrate` is acted on only as true or false")
        return Cast(
            roles=self._roles(asked_for),
            default=self._default(),
            templates=dict(self._prompts(asked_for)),
            stages=stages,
            narrate=narrate is True,
        )

    def _stages(self) -> tuple[str, ...]:
        entries = self._orchestration.get("stages", [])
        if self._pattern != "pipeline":
            if entries:
                self.warnings.append(f"`spec.orchestration.stages` is not acted on by the pattern `{self._pattern}`, only by `pipeline`")
            return ()
        names = [entry if isinstance(entry, str) else entry["name"] for entry in entries]
        for index, name in enumerate(names):
            if name in names[:index]:
                path = ("orchestration", "stages", index)
                self.problems.append((path, f"is {name!r}, which another stage has", "give each stage a name of its own"))
        return tuple(names) or STAGES

    def _default(self) -> Candidates:
        """The models of the old form, then those of the new one's default."""
        default = self._model.get("default", {})
        entries = [self._model[key] for key in ("primary", "fallback") if key in self._model]
        entries += [*self._model.get("extra", []), *default.get("candidates", [])]
        strategies = [
            ("routing.strategy", self._model.get("routing", {}).get("strategy")),
            ("default.strategy", default.get("strategy")),
        ]
        rotate = [self._rotates(path, strategy) for path, strategy in strategies]
        return Candidates("default", tuple(_choice(entry) for entry in entries) or (ModelChoice(DEFAULT_MODEL),), any(rotate))

    def _rotates(self, path: str, strategy: str | None) -> bool:
        if strategy not in (None, _IN_ORDER, _IN_TURN):
            told = f"`spec.model.{path}` is `{strategy}`, which is not acted on by this build"
            self.warnings.append(f"{told}: the models are asked in the order of the file (`{_IN_ORDER}`, or `{_IN_TURN}`)")
        return strategy == _IN_TURN

    def _roles(self, asked_for: tuple[str, ...]) -> dict[str, Candidates]:
        """What the file has for the roles that the pattern asks for; ``role_map`` says which entry of ``roles`` plays which."""
        entries: Mapping[str, Any] = self._model.get("roles", {})
        role_map: Mapping[str, str] = self._orchestration.get("role_map", {})
        for role, name in role_map.items():
            if name not in entries and name != "default":
                path, remedy = ("orchestration", "role_map", role), nearest(name, [*entries, "default"])
                self.problems.append((path, f"is {name!r}, which `spec.model.roles` does not have", remedy))
        self._name_unused("spec.orchestration.role_map", set(role_map) - set(asked_for), asked_for)
        played = {role: role_map.get(role, role) for role in asked_for}
        self._name_unused("spec.model.roles", set(entries) - set(played.values()), asked_for)
        return {role: self._role(name, entries[name]) for role, name in played.items() if name in entries}

    def _role(self, name: str, entry: Mapping[str, Any]) -> Candidates:
        choices = tuple(_choice(candidate) for candidate in entry["candidates"])
        return Candidates(f"role {name}", choices, self._rotates(f"roles.{name}.strategy", entry.get("strategy")))

    def _prompts(self, asked_for: tuple[str, ...]) -> Iterator[tuple[str, Prompt]]:
        """The templates that tell a role what to do, in place of what this build would tell it."""
        names = {role: _template_names(role) for role in asked_for}
        for role, candidates in names.items():
            for name in [name for name in candidates if name in self._templates][:1]:
                try:
                    yield role, Prompt(self._templates[name])
                except TemplateSyntaxError as error:
                    message = f"is not a template: {error.message} (line {error.lineno} of the text)"
                    self.problems.append((("prompts", "templates", name), message, "mend it there"))
        used = {name for candidates in names.values() for name in candidates}
        self._name_unused("spec.prompts.templates", set(self._templates) - used, asked_for)

    def _name_unused(self, field: str, names: set[str], asked_for: tuple[str, ...]) -> None:
        if names:
            there_is = f"the pattern `{self._pattern}` asks for {', '.join(asked_for)}"
            self.warnings.append(f"`{field}` has entries that are not acted on: {', '.join(sorted(names))}; {there_is}")


def _template_names(role: str) -> tuple[str, ...]:
    """What the template of a role may be called: a stage's are ``stage:draft``, ``stage_draft`` and ``draft``."""
    stage = role.removeprefix("stage:")
    return (role,) if stage == role else (role, f"stage_{stage}", stage)


def _choice(entry: Mapping[str, Any]) -> ModelChoice:
    provider = entry.get("provider") or entry.get("source")
    name = f"{provider}/{entry['model']}" if provider else entry["model"]
    return ModelChoice(name, entry.get("parameters", {}))

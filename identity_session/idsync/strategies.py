"""A strategy as it is configured: a preset, what differs from it, and every setting of the service.

Sources: the pages "Components" and "Store and Organize User Data" of the IDSync guide.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, cast

from .identity_types import KNOWN_TYPES
from .presets import PRESETS, PRIORITIES, Preset, Types

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "best_match_login": ("identify", "reject"),
    "search_lookup": ("auto", "any", "immutable"),
    "matched_identities": ("deciding", "all"),
    "context": ("null", "echo"),
    "error_shape": ("both", "http", "sdk"),
    "key_only": ("web", "always", "never"),
}

_DAY_MS = 24 * 60 * 60 * 1000

# No error shows a key. The parser quotes names of tables, a single character at most otherwise.
_QUOTED = re.compile(r"""\(?(['"]).{2,}\1,?\)?""")
_SETTING_NAME = re.compile(r"[a-z_]+")

# None until __post_init__ has filled in the preset's value; typed as what every reader of the field finds.
_AS_PRESET = cast("Sequence[str]", None)


@dataclass(frozen=True)
class IdentityStrategy:
    """A preset by name, with whatever differs from it.

    `priority` is the order of lookup, highest first; `login`, `unique` and `immutable` name types of it. Those left
    out (or None) are the preset's. The other settings choose where public material is silent or contradicts itself.
    Raises ValueError, with the reason, for a configuration that makes no sense.
    """

    strategy: str = "default"
    priority: Sequence[str] = _AS_PRESET
    login: Sequence[str] = _AS_PRESET
    unique: Sequence[str] = _AS_PRESET
    immutable: Sequence[str] = _AS_PRESET
    single_value_unique_types: bool = False
    """True: identify and login leave an existing value of a unique type alone instead of adding a second one."""
    best_match_login: Literal["identify", "reject"] = "identify"
    """Best match has no login and logout of its own: treat them as identify, or refuse them."""
    search_lookup: Literal["auto", "any", "immutable"] = "auto"
    """Types that search looks up; auto: only immutable ones if there are any, else all."""
    matched_identities: Literal["deciding", "all"] = "deciding"
    """Which of the request's identities that were on the profile an answer names; deciding: the login IDs if one of
    them found the profile, else the others."""
    context: Literal["null", "echo"] = "null"
    """What an answer carries as context; echo: the answer itself in Base64."""
    error_shape: Literal["both", "http", "sdk"] = "both"
    """Errors as the HTTP API page shows them (`errors`), as the Web SDK reads them (`Errors`), or both in one."""
    max_age_s: int = 86400
    """Seconds for which a client may keep an answer of identify, login and search; 0 forbids it."""
    lenient_identities: bool = False
    """True: identities of unknown type are ignored instead of refused."""
    key_only: Literal["web", "always", "never"] = "web"
    """Who may call with the key alone where secrets are checked; web: the platform "web", and alias requests."""
    disabled_keys: Sequence[str] = field(default=(), repr=False)
    """Keys that are answered 403."""
    max_clock_skew_s: float | None = None
    """Seconds by which the date of a signature may differ from the clock; None: any date will do."""
    key_rate_per_s: float | None = None
    """Calls per second that one key may make; None: any number."""
    key_burst: int | None = None
    """Calls that one key may make at once; None: as many as in a second."""
    hot_rate_per_s: float | None = None
    """Calls per second that may name one identity, or one MPID in modify and alias; None: any number."""
    hot_burst: int | None = None
    """Calls that may name one identity or MPID at once; None: as many as in a second."""
    alias_enabled: bool = True
    """False: alias requests are answered 403, as for a workspace without aliasing."""
    retention_days: float | None = None
    """Days after which a profile that answered no call is deleted; None: never. No call is answered with it from then
    on; it leaves the store within an hour as long as calls come, and before anybody looks, and can be named as the
    source of an alias or a link until then."""
    trail: bool = True
    """False: calls are recorded without the reasons for their answers."""
    api_keys: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    """Secret by key. None takes any key and checks no signature."""

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str) or self.strategy not in PRESETS:
            raise ValueError(f"unknown strategy {self.strategy!r}; known: {', '.join(PRESETS)}")
        row = self.preset
        presets = {
            "priority": PRIORITIES[self.strategy],
            "login": row.login,
            "unique": row.unique,
            "immutable": row.immutable,
        }
        for name, types in presets.items():
            given = getattr(self, name)
            object.__setattr__(self, name, _checked_types(name, types if given is None else given))
        self._check_types()
        self._check_settings()

    @classmethod
    def from_toml(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """The strategy that a TOML file, or the table read from one, describes.

        Its keys are the fields above; the table `[api_keys]` maps key to secret. Raises ValueError, with the reason,
        for what is no TOML or no strategy, and OSError for a file that cannot be read.
        """
        table = source if isinstance(source, Mapping) else read_table(source)
        names = [each.name for each in fields(cls)]
        for name in table:
            if name not in names:
                shown = repr(name) if _SETTING_NAME.fullmatch(str(name)) else "(keys belong under [api_keys])"
                raise ValueError(f"unknown setting {shown}; known: {', '.join(names)}")
        return cls(**table)

    @property
    def preset(self) -> Preset:
        """The strategy's row of the table."""
        return PRESETS[self.strategy]

    @cached_property
    def login_types(self) -> Types:
        """The login types in the order of the priority."""
        return tuple(type_ for type_ in self.priority if type_ in self.login)

    @cached_property
    def other_types(self) -> Types:
        """The types of the priority that are no login types, in its order."""
        return tuple(type_ for type_ in self.priority if type_ not in self.login)

    @cached_property
    def search_types(self) -> Sequence[str]:
        """The types that search looks up. "Store and Organize User Data" finds nobody by an email when customerid is
        immutable; the page "Use Cases" promises a search by any identifier."""
        only_immutable = self.search_lookup == "immutable" or (self.search_lookup == "auto" and self.immutable)
        return self.immutable if only_immutable else self.priority

    def unseen_before_ms(self, now_ms: int) -> int | None:
        """Profiles that were last seen before this moment are to be deleted; None: none are."""
        return None if self.retention_days is None else now_ms - int(min(self.retention_days * _DAY_MS, now_ms))

    def is_guarded(self, type_: str) -> bool:
        """Whether a value of this type sits on one profile only. A login ID resolves to one profile, so login types
        are guarded like unique ones."""
        return type_ in self.unique or type_ in self.login

    def _check_types(self) -> None:
        if not self.priority:
            raise ValueError("the priority is empty; name at least one identity type")
        for name in ("login", "unique", "immutable"):
            for type_ in getattr(self, name):
                if type_ not in self.priority:
                    raise ValueError(f"{name} type {type_!r} is not in the priority")
        for type_ in self.immutable:
            if type_ not in self.unique or type_ not in self.login:
                raise ValueError(f"immutable type {type_!r} must be a unique and a login type as well")
        if set(self.priority[: len(self.immutable)]) != set(self.immutable):
            raise ValueError("immutable types must come first in the priority")
        if self.strategy == "best_match" and self.login:
            raise ValueError("best match has no login types; choose another strategy or leave them out")

    def _check_settings(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; pass one of {', '.join(choices)}")
        for name, (is_valid, wanted) in _CHECKS.items():
            if not is_valid(getattr(self, name)):
                raise ValueError(f"{name} must be {wanted}")
        for limit in ("key", "hot"):
            if getattr(self, f"{limit}_burst") is not None and getattr(self, f"{limit}_rate_per_s") is None:
                raise ValueError(f"{limit}_burst limits nothing without {limit}_rate_per_s")
        if self.search_lookup == "immutable" and not self.immutable:
            raise ValueError("search_lookup 'immutable' needs an immutable type, else search finds nobody")


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The table of a TOML file. Raises ValueError, which shows no key, for what is no TOML, and OSError for a file that
    cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the configuration is no TOML: {_QUOTED.sub('...', str(error))}") from None


def _checked_types(name: str, types: Sequence[str]) -> Types:
    if not isinstance(types, (list, tuple)):
        raise ValueError(f"{name} is a {type(types).__name__}; pass a list of identity types")
    for type_ in types:
        if not isinstance(type_, str) or type_ not in KNOWN_TYPES:
            raise ValueError(f"unknown identity type {type_!r} in {name}")
    if len(set(types)) != len(types):
        raise ValueError(f"{name} names a type twice")
    return tuple(types)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_above_0(value: Any) -> bool:
    return value is None or (_is_number(value) and value > 0)


def _is_burst(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def _are_keys(value: object) -> bool:
    """Whether this is a list of keys, or a table of keys and secrets. An empty key is no key."""
    given = [*value, *value.values()] if isinstance(value, Mapping) else value
    return isinstance(given, (list, tuple)) and all(isinstance(key, str) and key for key in given)


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "single_value_unique_types": (_is_flag, "true or false"),
    "lenient_identities": (_is_flag, "true or false"),
    "alias_enabled": (_is_flag, "true or false"),
    "trail": (_is_flag, "true or false"),
    "max_age_s": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "a whole number of seconds, 0 or more",
    ),
    "max_clock_skew_s": (lambda value: value is None or (_is_number(value) and value >= 0), "seconds, 0 or more"),
    "key_rate_per_s": (_is_above_0, "calls per second, more than 0"),
    "hot_rate_per_s": (_is_above_0, "calls per second, more than 0"),
    "retention_days": (_is_above_0, "days, more than 0"),
    "key_burst": (_is_burst, "a whole number of calls, 1 or more"),
    "hot_burst": (_is_burst, "a whole number of calls, 1 or more"),
    "disabled_keys": (lambda value: not isinstance(value, Mapping) and _are_keys(value), "a list of keys"),
    "api_keys": (
        lambda value: value is None or (isinstance(value, Mapping) and _are_keys(value)),
        "a table of keys and their secrets, none of them empty",
    ),
}

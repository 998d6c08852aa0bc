"""The identity strategies as rows of one table, and a strategy as it is configured.

Sources: the pages "Default Strategy", "Profile Conversion Strategy", "Profile Link Strategy", "Profile Isolation
Strategy", "Best Match Strategy", "Components" and "Store and Organize User Data" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from .identity_types import KNOWN_TYPES

Types = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """A row of the table below. None: best match knows neither known users nor a logout."""

    unique: Types
    login: Types
    immutable: Types
    on_new_known_user: Literal["converts", "new record", "linked record"] | None
    on_logout: Literal["new MPID", "return"] | None
    bare_login: Literal["identify", "refuse"]
    """What a login call without any login ID does."""
    aliasing: bool


_NONE: Types = ()
_CUSTOMER: Types = ("customerid",)
_BOTH: Types = ("customerid", "email")

# fmt: off
PRESETS: Mapping[str, Preset] = {
    #                             unique     login      immutable  on new known user  on logout  bare login  aliasing
    "default":             Preset(_CUSTOMER, _CUSTOMER, _CUSTOMER, "converts",       "new MPID", "identify", True),
    "default_2022":        Preset(_CUSTOMER, _CUSTOMER, _NONE,     "converts",       "new MPID", "identify", True),
    "profile_conversion":  Preset(_BOTH,     _BOTH,     _NONE,     "converts",       "new MPID", "identify", True),
    "profile_link":        Preset(_BOTH,     _BOTH,     _NONE,     "linked record",  "new MPID", "identify", True),
    "profile_isolation":   Preset(_BOTH,     _BOTH,     _NONE,     "new record",     "return",   "refuse",   False),
    "best_match":          Preset(_NONE,     _NONE,     _NONE,     None,             None,       "identify", False),
}
# fmt: on

_KNOWN_USERS: Types = ("customerid", "email", "ios_idfv", "roku_aid", "other", "device_application_stamp")

# The Default Strategy page exists in two generations: the later one made customerid immutable and shortened the list.
PRIORITIES: Mapping[str, Types] = {
    "default": (
        *("customerid", "email", "ios_idfa", "ios_idfv", "android_aaid", "android_uuid", "amp_id"),
        "device_application_stamp",
    ),
    "default_2022": (
        *("customerid", "mobile_number", "email", "other", "facebook", "google", "twitter", "microsoft", "yahoo"),
        *("ios_idfa", "ios_idfv", "android_aaid", "android_uuid", "roku_aid", "roku_publisher_id"),
        "device_application_stamp",
    ),
    "profile_conversion": _KNOWN_USERS,
    "profile_link": _KNOWN_USERS,
    "profile_isolation": _KNOWN_USERS,
    "best_match": ("email", "other", "ios_idfv", "android_uuid", "device_application_stamp"),
}
"""The example priorities of the strategies' pages, with `other` and the device application stamp at the end."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "best_match_login": ("identify", "reject"),
    "search_lookup": ("auto", "any", "immutable"),
    "matched_identities": ("deciding", "all"),
    "context": ("null", "echo"),
    "error_shape": ("both", "http", "sdk"),
}

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

    def __post_init__(self) -> None:
        if self.strategy not in PRESETS:
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

    @property
    def preset(self) -> Preset:
        """The strategy's row of the table."""
        return PRESETS[self.strategy]

    @property
    def login_types(self) -> Types:
        """The login types in the order of the priority."""
        return tuple(type_ for type_ in self.priority if type_ in self.login)

    @property
    def other_types(self) -> Types:
        """The types of the priority that are no login types, in its order."""
        return tuple(type_ for type_ in self.priority if type_ not in self.login)

    @property
    def search_types(self) -> Sequence[str]:
        """The types that search looks up. "Store and Organize User Data" finds nobody by an email when customerid is
        immutable; the page "Use Cases" promises a search by any identifier."""
        only_immutable = self.search_lookup == "immutable" or (self.search_lookup == "auto" and self.immutable)
        return self.immutable if only_immutable else self.priority

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
        if self.search_lookup == "immutable" and not self.immutable:
            raise ValueError("search_lookup 'immutable' needs an immutable type, else search finds nobody")
        if not isinstance(self.max_age_s, int) or self.max_age_s < 0:
            raise ValueError("max_age_s must be a whole number of seconds, 0 or more")


def _checked_types(name: str, types: Sequence[str]) -> Types:
    if isinstance(types, str):
        raise ValueError(f"{name} is a single str; pass a list of identity types")
    for type_ in types:
        if type_ not in KNOWN_TYPES:
            raise ValueError(f"unknown identity type {type_!r} in {name}")
    if len(set(types)) != len(types):
        raise ValueError(f"{name} names a type twice")
    return tuple(types)

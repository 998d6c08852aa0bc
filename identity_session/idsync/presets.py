"""The identity strategies as rows of one table, and the priorities that go with them.

Sources: the pages "Default Strategy", "Profile Conversion Strategy", "Profile Link Strategy", "Profile Isolation
Strategy" and "Best Match Strategy" of the IDSync guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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

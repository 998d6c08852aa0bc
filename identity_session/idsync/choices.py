"""Where public material is silent or contradicts itself: what this service does, in a sentence each.

A call whose answer rests on one of these names it in its trail, so that a test can be seen to depend on it. Behaviour
that every answer shares is not named each time: MPIDs are drawn uniformly from the signed 64-bit numbers but 0, values
are compared exactly, `production` and `development` share their profiles.
"""

from __future__ import annotations


class Choice:
    """The choices. The setting or function behind each is named where one can change it."""

    # Resolution, see `resolver`
    SEVERAL_VALUES = "a profile may hold several values of one type (setting single_value_unique_types)"
    NO_STEALING = "identify, login and logout leave a value with its owner, only modify moves it"
    LOGIN_GUARDED = "login types are guarded like unique ones"
    LOGIN_TYPES_FIRST = "login types are looked up before all others, wherever they stand in the priority"
    TIE = "a tie goes to the request's previous MPID, else to the profile created last"
    MATCHED_IDENTITIES = (
        "matched_identities names the login IDs if one of them found the profile, else the other identities that "
        "were on it before the call (setting matched_identities)"
    )
    EPHEMERAL = "is_ephemeral is true for a profile whose record names devices only, or nothing"
    LOGOUT_WITHOUT_LOGIN_IDS = "a logout ignores login IDs and ends on an anonymous profile"
    BARE_LOGIN = "a login without any login ID is an identify, but refused under profile isolation"
    BEST_MATCH_LOGIN = "under best match login and logout are an identify (setting best_match_login)"
    SEARCH_LOOKUP = "where there are immutable types search looks up only these (setting search_lookup)"
    SEARCH_NOT_FOUND = "search finds nobody where identify would create a profile"
    OUTSIDE_PRIORITY = "types outside the priority are kept beside the record and never looked up"
    SOURCE = "the source of a linked profile is the previous MPID if that is anonymous, else the anonymous match"
    READ_ONLY = "with read_only a call that would create a profile finds nobody"

    # Modify, see `modification`
    ONLY_VALUE = "a unique or login value set by modify becomes the only one of its type"
    STALE_OLD_VALUE = "a wrong old value is never an error"
    IMMUTABLE_CHANGE = "a change to an immutable ID refuses the whole modify"
    UNKNOWN_MPID = "modify of an unknown MPID is answered 404 without a body"
    CHANGE_RESULTS = "change_results names each type and profile whose record changed, losers of a value included"
    NO_CHANGES = "a modify without changes succeeds"

    # Requests, keys and limits, see `requests`, `access` and `throttle`
    VALIDATION = "unknown identity types are refused (setting lenient_identities)"
    LIMITS = "a body has 256 KB at most, a request 100 identities, a value 4096 characters"
    ERROR_SHAPE = "an error's body holds both public shapes (setting error_shape)"
    INVALID_DATA = "whatever cannot be read as the call is INVALID_DATA"
    KEY_STATUS = "an unknown key is answered 401, a disabled one 403 (setting disabled_keys)"
    CLOCK_SKEW = "a signature's date is compared with the clock (setting max_clock_skew_s)"
    KEY_PRECEDENCE = "a signature decides, else Basic, else the key alone, for the web and for alias (setting key_only)"
    THROTTLING = "calls are limited per key, and per identity or MPID (settings key_rate_per_s and hot_rate_per_s)"

    # Aliasing, see `aliases`
    ALIAS_CHECKS = (
        "equal or unknown MPIDs and an invalid time range are refused at once, an older start is moved up to the "
        "window, all else fails silently when the request is processed"
    )
    ALIAS_STRATEGIES = "strategies without aliasing answer 403 (setting alias_enabled)"

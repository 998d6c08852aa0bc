"""Changes to a user's attributes and consent: arguments checked first, then a function from user to user.

Sources: Web SDK src/identity.js (mParticleUser), src/validators.ts (attribute keys and values), src/utils.ts
(keys are compared without regard to case), src/consent.ts. A wrong argument raises; the SDK logs and ignores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from .identities import is_text
from .users import AttributeValue, Scalar, User

Edit = Callable[[User], User]

_MAX_INT = 2**63
_MAX_DEPTH = 20


def set_attribute(key: str, value: Scalar) -> Edit:
    """One attribute: a str, int, float, bool or None; a key that differs only in case is replaced."""
    return _set({_key(key): _scalar(value)})


def set_attributes(attributes: Mapping[str, Scalar]) -> Edit:
    """Several attributes, all of them or, when one is wrong, none."""
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes must be a mapping of name to value, not {type(attributes).__name__}")
    last = {_key(key).lower(): (key, _scalar(value)) for key, value in attributes.items()}
    return _set(dict(last.values()))


def set_attribute_list(key: str, values: Iterable[Scalar]) -> Edit:
    """An attribute that holds a list or tuple of scalars; it may be empty."""
    if not isinstance(values, list | tuple):
        raise TypeError(f"an attribute list must be a list or tuple, not {type(values).__name__}")
    return _set({_key(key): [_scalar(value) for value in values]})


def remove_attribute(key: str) -> Edit:
    """Remove an attribute, whatever the case of its key; one that is not there is fine."""
    folded = _key(key).lower()
    return lambda user: replace(user, attributes={k: v for k, v in user.attributes.items() if k.lower() != folded})


def remove_all_attributes() -> Edit:
    """Remove every attribute, tags included."""
    return lambda user: replace(user, attributes={})


def set_consent_state(state: Mapping[str, Any] | None) -> Edit:
    """Replace the consent state by a copy of this JSON-like mapping; None erases it."""
    if state is not None and not isinstance(state, Mapping):
        raise TypeError(f"a consent state must be a mapping or None, not {type(state).__name__}")
    own = None if state is None else cast(Mapping[str, object], _json_value(state, _MAX_DEPTH))
    return lambda user: replace(user, consent_state=own)


def copied(attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
    """Attributes for the caller to keep: changing them changes nothing here."""
    return {key: list(value) if isinstance(value, list | tuple) else value for key, value in attributes.items()}


def _set(new: Mapping[str, AttributeValue]) -> Edit:
    folded = {key.lower() for key in new}

    def edit(user: User) -> User:
        kept = {key: value for key, value in user.attributes.items() if key.lower() not in folded}
        return replace(user, attributes={**kept, **new})

    return edit


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"an attribute key must be a str, not {type(key).__name__}")
    if not key or not is_text(key):
        raise ValueError("an attribute key must be a non-empty text that UTF-8 can hold")
    return key


def _scalar(value: object) -> Scalar:
    if value is not None and not isinstance(value, str | int | float):
        hint = "; use set_attribute_list for a list" if isinstance(value, list | tuple) else ""
        raise TypeError(f"an attribute value must be str, int, float, bool or None, not {type(value).__name__}{hint}")
    if isinstance(value, str) and not is_text(value):
        raise ValueError("an attribute value must be a text that UTF-8 can hold")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("an attribute value must be a finite number; JSON has no other")
    if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
        raise ValueError("an attribute value must be an integer of at most 64 bits; pass a larger one as text")
    return value


def _json_value(value: object, depth: int) -> object:
    if not depth:
        raise ValueError(f"a consent state must not be nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_key(key): _json_value(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, depth - 1) for item in value]
    return _scalar(value)

"""The identity types that the service takes: the union of what the HTTP API and the Web, Android and Apple SDKs send.

Sources: documentation page "HTTP API" of IDSync and its swagger file; Web SDK src/types.ts; Android SDK
MParticle.IdentityType; Apple SDK MPEnums.h. The published swagger is older than the SDKs and lists fewer.
"""

from __future__ import annotations

from identity_session.identities import IdentityType

USER_TYPES = frozenset({*(str(name) for name in IdentityType), "alias"})
"""Types that name a person. `alias` is a legacy type of the Android SDK."""

DEVICE_TYPES = frozenset(
    {
        "ios_idfa",
        "ios_idfv",
        "android_aaid",
        "android_uuid",
        "fire_aid",
        "amp_id",
        "push_token",
        "roku_publisher_id",
        "roku_aid",
        "device_application_stamp",
    }
)
"""Types that name a device or an installation."""

KNOWN_TYPES = USER_TYPES | DEVICE_TYPES

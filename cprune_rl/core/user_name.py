"""Names the user where the system does not: containers have users that are a number alone."""

from __future__ import annotations

import os
import pwd

__all__ = ["name_the_user"]


def name_the_user() -> None:
    """Have a user without a name called by a number: torch asks for one when it is imported."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", f"user{os.getuid()}")

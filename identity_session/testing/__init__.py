"""For those who test their own programs. Nothing here needs pytest, and the client imports none of it."""

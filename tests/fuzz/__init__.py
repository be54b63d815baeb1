"""Damaged files of every format that is read: each is refused in one line, or opens."""

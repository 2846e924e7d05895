"""Pages to look at sessions, live and past: a list, and each session's notebook as it grows.

Reads notebooks, and asks open sessions for what is not written yet; runs nothing itself.
"""

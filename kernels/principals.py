"""Whose kernels and sessions these are: plain names, which whoever serves people chooses."""

LOCAL = "local"  # the only principal if callers are not told apart; it has no quota

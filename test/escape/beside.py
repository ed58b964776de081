"""A module that lies beside a script; ordinary.py imports it."""

VALUE = 42

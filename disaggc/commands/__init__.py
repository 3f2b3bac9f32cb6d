"""The commands, a module each: arguments in, exit code out. ``disaggc/cli.py`` puts them together."""

"""Frameworks' own agents as agents of Tagout's: one module for each framework.

`tagout.install()` is what stops model calls. An adapter says whose they are: the agent that a framework calls "Critic" is one of
its own, below the agent that `install()` was given, and can be stopped alone. It also asks before each tool call, and gives
records the names of agents and conversations.
"""

"""The state machine: a function of the log, in memory, without I/O."""

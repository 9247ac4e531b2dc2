//! Weir: daemon, agent and command line.

//! What runs: daemon, control thread, agent.

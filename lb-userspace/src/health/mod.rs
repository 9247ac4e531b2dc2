//! From probes to states.

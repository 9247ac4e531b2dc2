//! BPF objects, maps and what is written into them.

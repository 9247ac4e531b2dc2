//! Maps and ports of the XDP programs.
#![no_std]

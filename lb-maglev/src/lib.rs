//! Weighted Maglev tables.
#![no_std]

//! What kernel and user side share.
#![no_std]

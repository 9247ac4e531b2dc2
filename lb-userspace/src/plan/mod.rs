//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod state;

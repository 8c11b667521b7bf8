//! The demonstration: the whole journey on an emulated board.

//! This package has no code of its own: see `promises/main.rs` and `tidy.rs`.

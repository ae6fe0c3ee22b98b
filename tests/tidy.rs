//! The rules of the house that can be checked.

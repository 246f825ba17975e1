//! Lathe: compile transformer models into native CPU programs and run them.

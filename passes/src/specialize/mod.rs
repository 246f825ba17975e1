//! Functions made beside `main` for special uses.

pub(crate) mod cache;
pub(crate) mod gqa;

//! The runtime: models, sessions, code memory and the worker team.

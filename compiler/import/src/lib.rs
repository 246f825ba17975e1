//! Importers: a model file becomes a module.

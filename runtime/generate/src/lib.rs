//! Generation over a small language-model trait.

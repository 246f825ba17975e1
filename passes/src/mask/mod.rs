//! What a mask says, proven from the graph that makes it.
//!
//! A mask is read backwards, one symbolic element at a time: *which element of which value is cell `[b, h, i, j]` of this one?* Movement of
//! data only changes the index ([`movement`]), integers that follow from sizes and coordinates stay expressions ([`Dim`]s over the
//! coordinates), comparisons of them become formulas ([`formula`]), constants are checked element by element ([`table`]), and what is left
//! are elements of values that the analysis does not look into: an input, or the result of an op it does not know. A formula is then split
//! into facts ([`visibility`]): causal, window, key padding. Nothing is guessed: what is not one of the facts stays what it is.
//!
//! Every size of the scores is at least 1 where a cell of them exists, so that statements about cells may use it: a [`Space`] rewrites each
//! size `n` of the scores as `n + 1`.

mod bounded;
mod cell;
mod element;
mod formula;
mod movement;
mod space;
mod table;
mod visibility;

pub(crate) use bounded::{full_up_to, never_negative_up_to};
pub(crate) use cell::{Cell, HIDING, HIDING_BESIDE_OTHERS, UNDERFLOW};
pub(crate) use element::Reader;
pub(crate) use formula::Formula;
pub(crate) use movement::source;
pub(crate) use space::Space;
pub(crate) use visibility::{Padding, Visibility};

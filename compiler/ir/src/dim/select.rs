//! Minimum, maximum and broadcast: operations that return one of their operands.

use std::sync::Arc;

use super::{Answer, Atom, Dim, Term};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Min,
    Max,
    Broadcast,
}

/// Operands beyond this are not compared with one another.
const MAX_COMPARED: usize = 8;

impl Dim {
    /// The smaller of both.
    pub fn min(&self, other: &Dim) -> Dim {
        select(Kind::Min, self, other)
    }

    /// The larger of both.
    pub fn max(&self, other: &Dim) -> Dim {
        select(Kind::Max, self, other)
    }

    /// The size that both broadcast to, given that they do: equal sizes, or one of them 1.
    pub fn broadcast(&self, other: &Dim) -> Dim {
        select(Kind::Broadcast, self, other)
    }
}

fn select(kind: Kind, a: &Dim, b: &Dim) -> Dim {
    if a.is_overflow() || b.is_overflow() {
        return Dim::overflow();
    }
    let mut leaves = Vec::new();
    collect(kind, a, &mut leaves);
    collect(kind, b, &mut leaves);
    leaves.sort_unstable_by(Dim::order);
    leaves.dedup();
    if kind == Kind::Broadcast {
        // A size that is not 1 is the result: the others are 1 or equal to it.
        let one = Dim::constant(1);
        leaves.retain(|leaf| *leaf != one);
        drop_clamped(&mut leaves);
        if let Some(sure) = leaves.iter().find(|leaf| leaf.as_constant().is_some()) {
            return sure.clone();
        }
        if let Some(sure) = leaves.iter().find(|leaf| leaf.equals(&one) == Answer::No) {
            return sure.clone();
        }
    } else if leaves.len() <= MAX_COMPARED {
        drop_dominated(kind, &mut leaves);
    }
    let mut result = match leaves.pop() {
        Some(last) => last,
        None => return Dim::constant(1),
    };
    while let Some(next) = leaves.pop() {
        let pair = Arc::new((next, result));
        result = Dim::atom(match kind {
            Kind::Min => Atom::Min(pair),
            Kind::Max => Atom::Max(pair),
            Kind::Broadcast => Atom::Broadcast(pair),
        });
    }
    result
}

/// Drops `min(a, c)` beside `a` where `c` is at least 1: they broadcast only where they are equal. Exporters clamp slices of tables so.
fn drop_clamped(leaves: &mut Vec<Dim>) {
    if leaves.len() > MAX_COMPARED {
        return;
    }
    let all = leaves.clone();
    let is_clamp_of = |leaf: &Dim, other: &Dim| {
        minimum_of(leaf).is_some_and(|(a, b)| {
            (a == *other && b.at_least(1) == Answer::Yes) || (b == *other && a.at_least(1) == Answer::Yes)
        })
    };
    leaves.retain(|leaf| !all.iter().any(|other| other != leaf && is_clamp_of(leaf, other)));
}

/// The operands of a minimum, which is also written `c - max(c - a, c - b)`.
fn minimum_of(dim: &Dim) -> Option<(Dim, Dim)> {
    let [Term { factors, coefficient }] = &dim.terms[..] else { return None };
    let shift = Dim::constant(dim.constant);
    match (&factors[..], coefficient) {
        ([Atom::Min(pair)], 1) => Some((pair.0.add(&shift), pair.1.add(&shift))),
        ([Atom::Max(pair)], -1) => Some((shift.sub(&pair.0), shift.sub(&pair.1))),
        _ => None,
    }
}

/// The operands of nested operations of the same kind; `max(a, b) + 1` counts as `max(a + 1, b + 1)`.
fn collect(kind: Kind, dim: &Dim, leaves: &mut Vec<Dim>) {
    if let [Term { factors, coefficient: 1 }] = &dim.terms[..]
        && let [atom] = &factors[..]
    {
        let pair = match (atom, kind) {
            (Atom::Min(pair), Kind::Min) | (Atom::Max(pair), Kind::Max) => Some(pair),
            (Atom::Broadcast(pair), Kind::Broadcast) if dim.constant == 0 => Some(pair),
            _ => None,
        };
        if let Some(pair) = pair {
            let shift = Dim::constant(dim.constant);
            collect(kind, &pair.0.add(&shift), leaves);
            collect(kind, &pair.1.add(&shift), leaves);
            return;
        }
    }
    leaves.push(dim.clone());
}

fn drop_dominated(kind: Kind, leaves: &mut Vec<Dim>) {
    let mut index = 0;
    while index < leaves.len() {
        let dominated = leaves.iter().enumerate().any(|(other, leaf)| {
            let (low, high) = if kind == Kind::Max { (index, other) } else { (other, index) };
            other != index
                && (leaves[high].sub(&leaves[low]).at_least(0) == Answer::Yes)
                && !(leaf == &leaves[index] && other > index)
        });
        if dominated {
            leaves.remove(index);
        } else {
            index += 1;
        }
    }
}

//! A cache group: the states that keep the same tokens, and the pool of their pages.

use lathe_artifact::layout::KvPage;
use lathe_artifact::plan::{Plan, State, StateKind};

use super::DecoderOptions;
use super::pool::{Pages, Pool};
use crate::RuntimeError;
use crate::memory::Memory;
use crate::program::Address;

/// Tokens of a page.
const PAGE_TOKENS: usize = KvPage::TOKENS;
/// Tokens that a sequence may forget without being computed again, as many as a call usually guesses: windows keep what is seen from so
/// many places before the last.
pub(super) const REWOUND: usize = 16;

/// What a group will take.
#[derive(Debug)]
pub(super) struct Planned {
    /// The input that lists its pages.
    table: u32,
    kind: StateKind,
    window: Option<usize>,
    pages: usize,
    /// Index into the plan's states, and bytes of a page.
    states: Vec<(usize, u64)>,
}

impl Planned {
    pub(super) fn bytes(&self) -> u64 {
        let page = self.states.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
        page.saturating_mul(self.pages as u64)
    }
}

/// The groups of a plan: states with one block table.
pub(super) fn plan_pages(plan: &Plan, options: &DecoderOptions) -> Vec<Planned> {
    let mut groups: Vec<Planned> = Vec::new();
    for (index, state) in plan.states.iter().enumerate() {
        let bytes = state.bytes_per_token().saturating_mul(PAGE_TOKENS as u64);
        match groups.iter_mut().find(|group| group.table == state.block_table) {
            Some(group) => {
                group.states.push((index, bytes));
                // What the widest window of a group sees must stay.
                group.window = group.window.zip(state.window).map(|(a, b)| a.max(b));
            }
            None => groups.push(Planned {
                table: state.block_table,
                kind: state.kind,
                window: state.window,
                pages: 0,
                states: vec![(index, bytes)],
            }),
        }
    }
    for group in &mut groups {
        group.pages = pages(group, options);
    }
    groups
}

/// The most tokens a sequence whose keys and values fit into so many bytes.
pub(super) fn most_tokens(plan: &Plan, options: &DecoderOptions, bytes: u64) -> usize {
    let fits = |tokens: usize| {
        let planned = plan_pages(plan, &DecoderOptions { tokens, ..*options });
        planned.iter().fold(0u64, |sum, group| sum.saturating_add(group.bytes())) <= bytes
    };
    let (mut most, mut over) = (0, options.tokens);
    while most + 1 < over {
        let middle = most + (over - most) / 2;
        if fits(middle) { most = middle } else { over = middle }
    }
    most
}

/// Pages for the sequences of a group.
fn pages(group: &Planned, options: &DecoderOptions) -> usize {
    let tokens = if group.kind == StateKind::Cross { options.source } else { options.tokens };
    let whole = tokens.div_ceil(PAGE_TOKENS);
    let each = match group.window {
        // What the first token of a chunk sees, and the chunk, need not begin at the start of a page.
        Some(window) => {
            let kept = window.saturating_add(REWOUND).saturating_add(options.chunk);
            whole.min(kept.div_ceil(PAGE_TOKENS) + 1)
        }
        None => whole,
    };
    each.saturating_mul(options.sequences)
}

/// A group with its memory.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) table: u32,
    pub(super) kind: StateKind,
    pub(super) window: Option<usize>,
    pub(super) pool: Pool,
    states: Vec<Lendable>,
}

/// The memory of a state.
#[derive(Debug)]
struct Lendable {
    state: usize,
    page_bytes: usize,
    memory: Memory,
}

impl Group {
    /// Reserves the memory; the system gives it page by page as it is touched.
    pub(super) fn reserve(planned: &Planned) -> Result<Self, RuntimeError> {
        let refused = || {
            RuntimeError::Resource(format!(
                "the system refused {} bytes for keys and values",
                planned.bytes()
            ))
        };
        if u32::try_from(planned.pages).is_err() {
            return Err(refused());
        }
        let reserve = |&(state, bytes): &(usize, u64)| {
            let page_bytes = usize::try_from(bytes).map_err(|_| refused())?;
            let bytes = page_bytes.checked_mul(planned.pages).ok_or_else(refused)?;
            let memory = Memory::zeroed(bytes).ok_or_else(refused)?;
            Ok(Lendable { state, page_bytes, memory })
        };
        let states = planned.states.iter().map(reserve).collect::<Result<_, RuntimeError>>()?;
        let (table, kind, window) = (planned.table, planned.kind, planned.window);
        Ok(Self { table, kind, window, pool: Pool::new(planned.pages), states })
    }

    /// Writes the address of each state into the list of all states.
    pub(super) fn lend(&self, states: &mut [Address]) {
        for lendable in &self.states {
            states[lendable.state] = Address(lendable.memory.address());
        }
    }

    /// Makes room for tokens `length..new_length` of a sequence.
    pub(super) fn grow(
        &mut self,
        pages: &mut Pages,
        length: usize,
        new_length: usize,
    ) -> Result<(), RuntimeError> {
        let states = &self.states;
        let grown = pages.grow(&mut self.pool, length, new_length, &mut |from, to| {
            for lendable in states {
                lendable.copy_page(from as usize, to as usize);
            }
        });
        if grown {
            return Ok(());
        }
        Err(RuntimeError::Resource(format!(
            "the context is full: a sequence of {new_length} tokens needs more than the {} pages of {PAGE_TOKENS} tokens that \
             all sequences have, of which {} are free",
            self.pool.pages(),
            self.pool.free()
        )))
    }

    fn page_bytes(&self) -> u64 {
        self.states.iter().map(|lendable| lendable.page_bytes as u64).sum()
    }

    pub(super) fn bytes_planned(&self) -> u64 {
        self.page_bytes() * self.pool.pages() as u64
    }

    pub(super) fn bytes_used(&self) -> u64 {
        self.page_bytes() * self.pool.peak() as u64
    }

    /// The shape of a state of this group: `[pool_pages, page_elements]`.
    pub(super) fn shape(&self, state: &State) -> [usize; 2] {
        [self.pool.pages(), state.page_elements()]
    }
}

impl Lendable {
    fn copy_page(&self, from: usize, to: usize) {
        let bytes = self.page_bytes;
        let end = from.max(to).saturating_add(1).saturating_mul(bytes);
        assert!(from != to && end <= self.memory.len(), "pages belong to the pool");
        let base = self.memory.address();
        // SAFETY: both pages lie in the memory, which no run uses now, and they are two.
        unsafe { std::ptr::copy_nonoverlapping(base.add(from * bytes), base.add(to * bytes), bytes) };
    }
}
